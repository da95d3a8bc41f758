use super::*;

fn addrs(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn clients_spread_and_move_over_alike() {
    let servers = addrs(&["a:1", "b:1", "c:1"]);
    let mut first = std::collections::BTreeMap::<String, usize>::new();
    for client in 0..3000u32 {
        let who = client.to_be_bytes();
        let order = order_of(&who, &servers, &servers[..1]);
        assert_eq!(order.len(), 3);
        *first.entry(order[0].clone()).or_default() += 1;
        // Without one of them, the others keep their order: only its own clients move.
        let fewer: Vec<String> = servers.iter().filter(|addr| **addr != order[0]).cloned().collect();
        assert_eq!(order_of(&who, &fewer, &[]), order[1..]);
    }
    assert!(first.values().all(|count| (800..1200).contains(count)), "{first:?}");
}

#[test]
fn what_the_map_names_comes_before_what_was_given() {
    let order = order_of(b"x", &addrs(&["b:1", "c:1"]), &addrs(&["a:1", "b:1"]));
    assert_eq!(order[2], "a:1");
    assert_eq!(order.len(), 3);
}

/// Metadata servers that do as a script says, and a client of theirs, on a network without sockets and in virtual time.
mod scripted {
    use super::*;
    use crate::client::DfsClient;
    use async_trait::async_trait;
    use bytes::Bytes;
    use cairn_net::testing::PipeNet;
    use cairn_net::{Handler, Identity, Net, RequestContext, ServerConfig, serve};
    use cairn_proto::{BootId, ClusterId};
    use parking_lot::Mutex;
    use tokio_util::sync::CancellationToken;

    type Answer = Result<response::Kind, Status>;
    /// What is answered to a request that counts, by its number among them and the time since the script began.
    type Script = Box<dyn Fn(u64, Duration) -> Answer + Send + Sync>;

    struct Scripted {
        script: Script,
        began: Instant,
        asked: Mutex<Vec<Option<pb::OpId>>>,
    }

    #[async_trait]
    impl Handler for Scripted {
        async fn handle(
            &self,
            _ctx: &RequestContext,
            request: pb::Request,
            _body: Vec<Bytes>,
        ) -> Result<(response::Kind, Body), Status> {
            let kind = match request.kind {
                Some(request::Kind::ClusterMap(_)) => {
                    response::Kind::ClusterMap(pb::ClusterMapReply { version: 1, ..Default::default() })
                }
                Some(request::Kind::OpenSession(_)) => {
                    let reply = pb::OpenSessionReply { session: 5, epoch: 1, lease_ms: 3_600_000 };
                    response::Kind::OpenSession(reply)
                }
                _ => {
                    let number = {
                        let mut asked = self.asked.lock();
                        asked.push(request.op_id);
                        asked.len() as u64
                    };
                    (self.script)(number, self.began.elapsed())?
                }
            };
            Ok((kind, Body::empty()))
        }
    }

    struct Cluster {
        net: PipeNet,
        servers: Vec<Arc<Scripted>>,
        addrs: Vec<String>,
    }

    impl Cluster {
        fn new() -> Self {
            Self { net: PipeNet::new(), servers: Vec::new(), addrs: Vec::new() }
        }

        async fn add(&mut self, script: impl Fn(u64, Duration) -> Answer + Send + Sync + 'static) {
            let listener = self.net.bind("127.0.0.1:0").await.unwrap();
            self.addrs.push(format!("127.0.0.1:{}", listener.local_addr().unwrap().port()));
            let server =
                Arc::new(Scripted { script: Box::new(script), began: Instant::now(), asked: Mutex::default() });
            self.servers.push(server.clone());
            let identity = Identity {
                role: pb::Role::Meta,
                cluster_id: ClusterId([7; 16]),
                ..Identity::client(BootId([self.servers.len() as u8; 16]))
            };
            tokio::spawn(serve(listener, server, ServerConfig::new(identity.shared()), CancellationToken::new()));
        }

        async fn client(&self, timeout: Duration) -> DfsClient {
            let builder = DfsClient::builder().meta(self.addrs.join(",")).net(Arc::new(self.net.clone())).seed(1);
            builder.meta_timeout(timeout).connect().await.unwrap()
        }
    }

    fn away() -> Answer {
        Err(Status::new(Code::Unavailable, "the engine is not available: it is being restarted").retry_after_ms(200))
    }

    fn look() -> request::Kind {
        request::Kind::AllocInodes(pb::AllocInodes { count: 1 })
    }

    fn looked() -> Answer {
        Ok(response::Kind::AllocInodes(pb::AllocInodesReply { first: 7, count: 1 }))
    }

    fn change() -> request::Kind {
        request::Kind::Mkdir(pb::Mkdir::default())
    }

    fn changed() -> Answer {
        Ok(response::Kind::Attr(pb::Attr::default()))
    }

    fn retry_tokens(client: &DfsClient) -> f64 {
        client.connection_stats().budgets.iter().find(|budget| budget.name == "retry").unwrap().tokens
    }

    /// Far more operations than the budget has tokens, all of them waiting through one outage.
    #[tokio::test(start_paused = true)]
    async fn an_engine_that_is_away_is_waited_for() {
        let mut cluster = Cluster::new();
        cluster.add(|_, at| if at < Duration::from_secs(12) { away() } else { looked() }).await;
        let client = cluster.client(Duration::from_secs(30)).await;
        let begun = Instant::now();
        let asks: Vec<_> = (0..60)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.look(look()).await })
            })
            .collect();
        for ask in asks {
            ask.await.unwrap().unwrap();
        }
        assert!(begun.elapsed() < Duration::from_millis(13_300), "{:?}", begun.elapsed());
        assert!(retry_tokens(&client) > 19.9);
        // Once in a second from each, and a few more in the beginning.
        let asked = cluster.servers[0].asked.lock().len();
        assert!(asked < 60 * 20, "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_server_is_asked_at_once() {
        let mut cluster = Cluster::new();
        // Which of them a client asks first, only it knows.
        for _ in 0..2 {
            let first = cluster.servers.is_empty();
            cluster.add(move |_, _| if first { away() } else { looked() }).await;
        }
        for seed in 0..8 {
            let builder = DfsClient::builder().meta(cluster.addrs.join(",")).net(Arc::new(cluster.net.clone()));
            let client = builder.seed(seed).connect().await.unwrap();
            let begun = Instant::now();
            client.look(look()).await.unwrap();
            assert!(begun.elapsed() < Duration::from_millis(50), "{:?}", begun.elapsed());
        }
        assert!(!cluster.servers[0].asked.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_away_is_named_at_the_deadline() {
        let mut cluster = Cluster::new();
        cluster.add(|_, _| away()).await;
        cluster.add(|_, _| away()).await;
        let client = cluster.client(Duration::from_secs(10)).await;
        let begun = Instant::now();
        let error = client.look(look()).await.unwrap_err();
        let took = begun.elapsed();
        assert!((Duration::from_secs(9)..=Duration::from_secs(10)).contains(&took), "{took:?}");
        assert_eq!(error.kind(), crate::ErrorKind::Unavailable);
        let words = error.to_string();
        assert!(words.contains("metadata cannot serve now") && words.contains("it is being restarted"), "{words}");
        assert!(cluster.addrs.iter().all(|addr| words.contains(addr)), "{words}");
        let asked = cluster.servers[0].asked.lock().len();
        assert!((8..20).contains(&asked), "{asked}");
    }

    /// Nothing turns unknown into not done: the same operation is asked for until a server knows.
    #[tokio::test(start_paused = true)]
    async fn what_is_unknown_is_resolved_through_an_outage() {
        let mut cluster = Cluster::new();
        let script = |number, at| match number {
            1 => Err(Status::new(Code::OutcomeUnknown, "the answer to the commit is lost")),
            _ if at < Duration::from_secs(5) => away(),
            _ => changed(),
        };
        cluster.add(script).await;
        let client = cluster.client(Duration::from_secs(30)).await;
        client.mutate(change(), None).await.unwrap();
        let asked = cluster.servers[0].asked.lock().clone();
        assert!(asked.len() > 3 && asked[0].is_some() && asked.iter().all(|id| *id == asked[0]), "{asked:?}");

        // An outage that outlasts the operation leaves it unknown.
        let mut cluster = Cluster::new();
        let lost = || Err(Status::new(Code::OutcomeUnknown, "the answer to the commit is lost"));
        cluster.add(move |number, _| if number == 1 { lost() } else { away() }).await;
        let client = cluster.client(Duration::from_secs(5)).await;
        let error = client.mutate(change(), None).await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Indeterminate);
        assert!(error.to_string().contains("it is being restarted"), "{error}");

        // What was certainly not done may be said so.
        let mut cluster = Cluster::new();
        cluster.add(|_, _| away()).await;
        let client = cluster.client(Duration::from_secs(5)).await;
        assert_eq!(client.mutate(change(), None).await.unwrap_err().kind(), crate::ErrorKind::Unavailable);
    }
}

#[test]
fn pauses_grow_to_a_bound_and_leave_a_last_try() {
    let ms = Duration::from_millis;
    let pauses: Vec<_> = (0..6).map(|waits| grown(ms(200), waits).as_millis()).collect();
    assert_eq!(pauses, [200, 400, 800, 1000, 1000, 1000]);
    assert_eq!(grown(ms(3000), 9), ms(3000));
    assert_eq!(grown(ms(5), u32::MAX), ms(1000));
    assert_eq!(before(ms(500), ms(501)), Some(ms(500)));
    assert_eq!(before(ms(500), ms(400)), Some(ms(300)));
    assert_eq!(before(ms(500), ms(199)), None);
    assert_eq!(before(ms(500), ms(0)), None);
}
