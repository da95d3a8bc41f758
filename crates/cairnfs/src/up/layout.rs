//! What `cairn up` starts, where, and with which command lines. Pure.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use cairn_server::{EngineUrl, limits::LOCAL_METAS_STEP};

use crate::{
    args,
    failure::Failure,
    roles::engine,
    settings::{BasePort, ConsolePorts, MetaCount, NodeCount, Replicas, UpSettings},
    span::Span,
    text,
};

const NODES_DEFAULT: u64 = 3;
const REPLICAS_DEFAULT: u64 = 3;
const BASE_PORT_DEFAULT: u64 = 9000;
/// Consoles are this many ports above their servers.
const CONSOLE_STEP: u64 = 80;

/// A server of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Metadata server number, from 1.
    Meta(u16),
    /// Storage node number, from 1.
    Node(u16),
}

impl Role {
    /// Whether it is a metadata server.
    pub fn is_meta(self) -> bool {
        matches!(self, Self::Meta(_))
    }

    /// How many ports it listens above the first metadata server.
    fn step(self) -> u16 {
        match self {
            Self::Meta(1) => 0,
            Self::Meta(index) => LOCAL_METAS_STEP + index - 1,
            Self::Node(index) => index,
        }
    }
}

/// As its directory is called: `meta-1`, `node-1`, `node-2`, ...
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta(index) => write!(f, "meta-{index}"),
            Self::Node(index) => write!(f, "node-{index}"),
        }
    }
}

/// What is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub data: PathBuf,
    /// Engine of metadata; `None` = the embedded one.
    pub engine: Option<EngineUrl>,
    pub metas: u16,
    pub nodes: u16,
    pub replicas: u32,
    pub ip: IpAddr,
    pub base_port: u16,
    /// Port of metadata's console; `None` = nobody has one.
    pub console_port: Option<u16>,
    pub processes: bool,
    /// When a silent node is suspect, and when it is out, if that was said.
    pub suspect_after: Option<Span>,
    pub out_after: Option<Span>,
}

/// Where data is kept when nothing says otherwise.
pub fn data_default(xdg_data_home: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    let shared = xdg_data_home.filter(|dir| dir.is_absolute()).or(home.map(|home| home.join(".local/share")));
    shared.map_or_else(|| PathBuf::from("cairn-data"), |dir| dir.join("cairn"))
}

impl Layout {
    /// Flags and environment before the file, the file before the defaults. `existing` counts the nodes that have data
    /// in a directory.
    ///
    /// # Errors
    /// Usage: settings that contradict each other.
    pub fn new(
        args: &args::Up,
        file: &UpSettings,
        data_default: PathBuf,
        existing: impl FnOnce(&Path) -> u64,
    ) -> Result<Self, Failure> {
        let data = args.data.clone().or_else(|| file.data.clone()).unwrap_or(data_default);
        if data.as_os_str().is_empty() {
            return Err(Failure::usage("--data", "is empty"));
        }
        let asked = args.nodes.or(file.nodes).map(NodeCount::get);
        let nodes = asked.unwrap_or_else(|| existing(&data).clamp(NODES_DEFAULT, 64));
        let replicas = args.replicas.or(file.replicas).map(Replicas::get);
        let replicas = match replicas {
            Some(replicas) if replicas > nodes => {
                let nodes = text::count(nodes, "node");
                let what = format_args!("{replicas} copies of a block need as many nodes, there are {nodes} (--nodes)");
                return Err(Failure::usage("--replicas", what));
            }
            Some(replicas) => replicas,
            None => REPLICAS_DEFAULT.min(nodes),
        };
        let ip = args.listen.or(file.listen).unwrap_or(IpAddr::from([127, 0, 0, 1]));
        if !ip.to_canonical().is_loopback() {
            let what = "only loopback addresses (127.0.0.1, ::1) are served as long as connections are not encrypted";
            return Err(Failure::usage(format_args!("--listen {ip}"), what));
        }
        let base_port = args.base_port.or(file.base_port).map_or(BASE_PORT_DEFAULT, BasePort::get);
        let console_port = match args.console.or(file.console) {
            None => Some(base_port + CONSOLE_STEP),
            Some(ConsolePorts::From(port)) => Some(port.get()),
            Some(ConsolePorts::Off) => None,
        };
        let engine = engine(args.engine.as_ref(), file.engine.as_ref())?;
        let metas = args.metas.or(file.metas).map_or(1, MetaCount::get);
        if metas > 1 && engine.as_ref().is_none_or(|url| url.dir().is_some()) {
            let what = "several metadata servers need an engine that they can share, as --engine postgres://... or \
                        --engine etcd://...: the embedded one serves a single process";
            return Err(Failure::usage("--metas", what));
        }
        check_ports(base_port, console_port, metas, nodes)?;
        Ok(Self {
            data,
            engine,
            metas: u16::try_from(metas).expect("bounded by MetaCount"),
            nodes: u16::try_from(nodes).expect("bounded by NodeCount"),
            replicas: u32::try_from(replicas).expect("bounded by Replicas"),
            ip,
            base_port: u16::try_from(base_port).expect("bounded by BasePort"),
            console_port: console_port.map(|port| u16::try_from(port).expect("bounded by BasePort and ConsolePort")),
            processes: args.processes || file.processes.unwrap_or(false),
            suspect_after: args.suspect_after.or(file.suspect_after),
            out_after: args.out_after.or(file.out_after),
        })
    }

    /// All roles, metadata first.
    pub fn roles(&self) -> impl Iterator<Item = Role> + use<> {
        (1..=self.metas).map(Role::Meta).chain((1..=self.nodes).map(Role::Node))
    }

    /// Addresses of the metadata servers, separated by commas.
    pub fn meta_addrs(&self) -> String {
        let addrs = self.roles().filter(|role| role.is_meta()).map(|role| self.addr(role).to_string());
        addrs.collect::<Vec<_>>().join(",")
    }

    pub fn port(&self, role: Role) -> u16 {
        // It fits: that was checked.
        self.base_port + role.step()
    }

    pub fn addr(&self, role: Role) -> SocketAddr {
        SocketAddr::new(self.ip, self.port(role))
    }

    /// Where a role shows metrics and health checks, if it does.
    pub fn console(&self, role: Role) -> Option<SocketAddr> {
        self.console_port.map(|port| SocketAddr::new(self.ip, port + role.step()))
    }

    /// Directory of a role's data.
    pub fn dir(&self, role: Role) -> PathBuf {
        self.data.join(role.to_string())
    }

    /// Directory of process ids and logs.
    pub fn run_dir(&self) -> PathBuf {
        self.data.join("run")
    }

    pub fn pid_file(&self, role: Role) -> PathBuf {
        self.run_dir().join(format!("{role}.pid"))
    }

    pub fn log_file(&self, role: Role) -> PathBuf {
        self.run_dir().join(format!("{role}.log"))
    }

    /// Arguments that run one role.
    pub fn role_args(&self, role: Role) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        args.push(if role.is_meta() { "meta" } else { "node" }.into());
        args.extend(["--data".into(), self.dir(role).into()]);
        args.extend(["--listen".into(), self.addr(role).to_string().into()]);
        let console = self.console(role).map_or_else(|| "off".to_owned(), |addr| addr.to_string());
        args.extend(["--console".into(), console.into()]);
        match role {
            Role::Meta(_) => {
                args.extend(["--replicas".into(), self.replicas.to_string().into()]);
                let spans = [("--suspect-after", self.suspect_after), ("--out-after", self.out_after)];
                for (flag, span) in spans.into_iter().filter_map(|(flag, span)| Some((flag, span?))) {
                    args.extend([flag.into(), span.text().into()]);
                }
            }
            Role::Node(_) => args.extend(["--meta".into(), self.meta_addrs().into()]),
        }
        args.extend(["--pid-file".into(), self.pid_file(role).into()]);
        args
    }

    /// The command line that runs one role, for a shell. A password is left for the user to fill in.
    pub fn command_line(&self, program: &Path, role: Role) -> String {
        let words = self.role_args(role);
        let words = words.iter().map(|word| text::shell_word(Path::new(word)));
        let engine = self.engine.as_ref().filter(|_| role.is_meta()).map(|url| {
            let setting = format!("CAIRN_ENGINE={}", url.template());
            format!("env {}", text::shell_word(Path::new(&setting)))
        });
        let program = text::shell_word(program);
        engine.into_iter().chain([program]).chain(words).collect::<Vec<_>>().join(" ")
    }
}

/// Refuses ports that do not exist, or that two would listen on.
fn check_ports(base_port: u64, console_port: Option<u64>, metas: u64, nodes: u64) -> Result<(), Failure> {
    let further = |index: u64| u64::from(LOCAL_METAS_STEP) + index - 1;
    let steps = || (0..=nodes).chain((2..=metas).map(further));
    let taken: BTreeSet<u64> = steps().map(|step| base_port + step).collect();
    let console = |base: u64| steps().map(move |step| base + step);
    if let Some(port) = console_port.into_iter().flat_map(console).find(|port| taken.contains(port)) {
        let what = format_args!("{port} would be among the ports from {base_port} on that the servers listen on");
        return Err(Failure::usage("--console", what));
    }
    let highest = steps().map(|step| base_port.max(console_port.unwrap_or(0)) + step).max().unwrap_or(base_port);
    if highest > u64::from(u16::MAX) {
        let what = format_args!("the highest port would be {highest}: choose a lower one, for the consoles too");
        return Err(Failure::usage("--base-port", what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn layout(flags: &[&str], file: &UpSettings, existing: u64) -> Result<Layout, Failure> {
        let cli = args::Cli::parse_from(["cairn", "up"].iter().chain(flags));
        let args::Command::Up(args) = cli.command else { panic!("up was called") };
        Layout::new(&args, file, PathBuf::from("/default"), |_| existing)
    }

    #[test]
    fn defaults() {
        let layout = layout(&[], &UpSettings::default(), 0).unwrap();
        assert_eq!((layout.nodes, layout.replicas, layout.base_port), (3, 3, 9000));
        assert_eq!(layout.dir(Role::Node(2)), Path::new("/default/node-2"));
        assert_eq!(layout.addr(Role::Node(2)).to_string(), "127.0.0.1:9002");
        assert_eq!(layout.pid_file(Role::Meta(1)), Path::new("/default/run/meta-1.pid"));
        let roles: Vec<String> = layout.roles().map(|role| role.to_string()).collect();
        assert_eq!(roles, ["meta-1", "node-1", "node-2", "node-3"]);
    }

    #[test]
    fn what_is_there_is_started_again() {
        assert_eq!(layout(&[], &UpSettings::default(), 5).unwrap().nodes, 5);
        assert_eq!(layout(&["--nodes", "4"], &UpSettings::default(), 5).unwrap().nodes, 4);
    }

    #[test]
    fn flags_come_before_the_file() {
        let file = UpSettings { nodes: NodeCount::new(5), replicas: Replicas::new(2), ..UpSettings::default() };
        let both = layout(&["--nodes", "4"], &file, 0).unwrap();
        assert_eq!((both.nodes, both.replicas), (4, 2));
    }

    #[test]
    fn copies_need_nodes() {
        assert_eq!(layout(&["--nodes", "1"], &UpSettings::default(), 0).unwrap().replicas, 1);
        let refused = layout(&["--nodes", "2", "--replicas", "3"], &UpSettings::default(), 0).unwrap_err();
        assert!(matches!(refused, Failure::Usage(message) if message.contains("2 nodes")));
        assert!(matches!(layout(&["--listen", "0.0.0.0"], &UpSettings::default(), 0), Err(Failure::Usage(_))));
    }

    #[test]
    fn the_last_port_fits() {
        let last = layout(&["--base-port", "65391", "--nodes", "64"], &UpSettings::default(), 0).unwrap();
        assert_eq!(last.console(Role::Node(64)).unwrap().port(), u16::MAX);
        let last = layout(&["--console", "65471", "--nodes", "64"], &UpSettings::default(), 0).unwrap();
        assert_eq!(last.console(Role::Node(64)).unwrap().port(), u16::MAX);
    }

    #[test]
    fn consoles_are_beside_their_servers_or_where_they_are_told() {
        let console = |flags: &[&str], role| layout(flags, &UpSettings::default(), 0).unwrap().console(role);
        assert_eq!(console(&[], Role::Meta(1)).unwrap().to_string(), "127.0.0.1:9080");
        assert_eq!(console(&["--base-port", "7000"], Role::Node(2)).unwrap().to_string(), "127.0.0.1:7082");
        assert_eq!(console(&["--console", "5000"], Role::Node(1)).unwrap().to_string(), "127.0.0.1:5001");
        assert_eq!(console(&["--console", "off"], Role::Node(1)), None);
        let among = layout(&["--console", "9002"], &UpSettings::default(), 0).unwrap_err();
        assert!(matches!(among, Failure::Usage(message) if message.contains("--console") && message.contains("9002")));
    }

    #[test]
    fn several_metadata_servers_share_an_engine() {
        let shared = ["--metas", "3", "--engine", "etcd://127.0.0.1:2379/x"];
        let layout_of = |flags: &[&str]| layout(flags, &UpSettings::default(), 0);
        let layout = layout_of(&shared).unwrap();
        let roles: Vec<String> = layout.roles().map(|role| role.to_string()).collect();
        assert_eq!(roles[..4], ["meta-1", "meta-2", "meta-3", "node-1"]);
        assert_eq!(layout.meta_addrs(), "127.0.0.1:9000,127.0.0.1:9065,127.0.0.1:9066");
        assert_eq!(layout.console(Role::Meta(3)).unwrap().port(), 9146);
        let line = layout.command_line(Path::new("cairn"), Role::Node(1));
        assert!(line.contains("--meta 127.0.0.1:9000,127.0.0.1:9065,127.0.0.1:9066 "), "{line}");
        let line = layout.command_line(Path::new("cairn"), Role::Meta(2));
        assert!(
            line.starts_with("env CAIRN_ENGINE=etcd://127.0.0.1:2379/x cairn meta --data /default/meta-2 "),
            "{line}"
        );
        for alone in [&["--metas", "2"][..], &["--metas", "2", "--engine", "file:/x"]] {
            let refused = layout_of(alone).unwrap_err();
            assert!(matches!(refused, Failure::Usage(message) if message.contains("postgres://")));
        }
        let taken = layout_of(&[&shared[..], &["--console", "9001"]].concat()).unwrap_err();
        assert!(matches!(taken, Failure::Usage(message) if message.contains("--console")));
        let high = layout_of(&[&shared[..], &["--base-port", "65391"]].concat()).unwrap_err();
        assert!(matches!(high, Failure::Usage(message) if message.contains("--base-port")));
    }

    #[test]
    fn command_lines_can_be_given_to_a_shell() {
        let layout = layout(&["--data", "/my data"], &UpSettings::default(), 0).unwrap();
        assert_eq!(
            layout.command_line(Path::new("/bin/cairn"), Role::Node(1)),
            "/bin/cairn node --data '/my data/node-1' --listen 127.0.0.1:9001 --console 127.0.0.1:9081 \
             --meta 127.0.0.1:9000 \
             --pid-file '/my data/run/node-1.pid'"
        );
    }

    #[test]
    fn usual_data_directory() {
        let path = |text| Some(PathBuf::from(text));
        assert_eq!(data_default(path("/x"), path("/u/ann")), Path::new("/x/cairn"));
        assert_eq!(data_default(None, path("/u/ann")), Path::new("/u/ann/.local/share/cairn"));
        assert_eq!(data_default(None, None), Path::new("cairn-data"));
    }
}
