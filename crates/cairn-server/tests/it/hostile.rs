//! Bytes that are no requests.

use crate::support::{Cluster, content};
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameType};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Writes `bytes`, ends the sending direction, and reads whatever comes until the server ends the connection.
async fn throw(addr: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The server may close before everything is written; that is its right.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
}

fn volleys(rng: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let mut random = vec![0; 10_000];
    rng.fill(&mut random);
    let sealed = |frame_type: FrameType, body: u32| {
        let mut header = FixedHeader::new(frame_type, 1, 257);
        header.body_len = body;
        header.seal(&[]).to_vec()
    };
    let hello = sealed(FrameType::Hello, 0);
    let mut oversize = sealed(FrameType::Request, 0);
    oversize[24..32].fill(0xff);
    vec![
        Vec::new(),
        random,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        hello[..FIXED_LEN / 2].to_vec(),
        hello.clone(),
        oversize,
        [hello, vec![0; 5000]].concat(),
        sealed(FrameType::Request, 1 << 20),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_leaves_every_server_up() {
    let mut cluster = Cluster::start().await;
    let before = cluster.client.write_file("before", content(100_000, 1)).await;
    let mut addrs = vec![cluster.meta.as_ref().unwrap().addr()];
    addrs.extend(cluster.nodes.iter().flatten().map(|node| node.addr()));
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..5 {
        for addr in &addrs {
            for bytes in volleys(&mut rng) {
                throw(*addr, &bytes).await;
            }
        }
    }
    let after = cluster.client.write_file("after", content(100_000, 2)).await;
    let (_, groups) = cluster.client.map().await;
    for file in [before, after] {
        let group = groups.iter().find(|group| group.id.0 == file.pg).unwrap();
        for member in &group.members {
            assert!(cluster.client.holds(member.store.0, &file).await);
        }
    }
    cluster.stop().await;
}
