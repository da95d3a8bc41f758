//! What every command that talks to a cluster needs: where it is, and the settings.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use cairn_client::{DfsClient, DfsClientBuilder, ErrorKind};
use cairn_tls::{Net, TcpNet, TlsNet};
use tokio_util::sync::CancellationToken;

use crate::{
    args::Global,
    failure::Failure,
    settings::{FileSettings, Jobs, META_DEFAULT},
    text,
};

/// Files in flight at once when nothing says otherwise.
const JOBS_DEFAULT: u64 = 16;

/// See the module.
pub struct Context {
    command: &'static str,
    meta: String,
    certs: Option<PathBuf>,
    net: OnceLock<Arc<dyn Net>>,
    /// What the settings file says.
    pub file: FileSettings,
    /// The whole command line, the program first.
    pub words: Vec<OsString>,
}

impl Context {
    /// Flags and environment before the file, the file before the defaults.
    pub fn new(command: &'static str, global: &Global, file: FileSettings, words: Vec<OsString>) -> Self {
        let given = global.meta.clone().filter(|meta| !meta.is_empty());
        let meta = given.or_else(|| file.meta.clone()).unwrap_or_else(|| META_DEFAULT.to_owned());
        let certs = global.certs.clone().or_else(|| file.certs.clone()).filter(|dir| !dir.as_os_str().is_empty());
        Self { command, meta, certs, net: OnceLock::new(), file, words }
    }

    /// The network: TCP, or mutual TLS on it, with certificates that are read anew when their files change. Has to be called
    /// inside the runtime.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn net(&self) -> Result<Arc<dyn Net>, Failure> {
        if let Some(net) = self.net.get() {
            return Ok(net.clone());
        }
        let Some(dir) = &self.certs else { return Ok(Arc::new(TcpNet)) };
        let made = TlsNet::new(Arc::new(TcpNet), dir);
        let made = Arc::new(made.map_err(|error| Failure::Failed { message: error.to_string(), general: true })?);
        // Until the process ends.
        tokio::spawn(made.clone().follow(CancellationToken::new()));
        Ok(self.net.get_or_init(|| made).clone())
    }

    /// Addresses of the metadata servers.
    pub fn meta(&self) -> &str {
        &self.meta
    }

    /// A client of the cluster.
    ///
    /// # Errors
    /// It cannot be reached; the message says where it was looked for.
    pub async fn connect(&self) -> Result<DfsClient, Failure> {
        self.connect_as(DfsClient::builder()).await
    }

    /// A client whose mutations are acknowledged before they are on disk.
    ///
    /// # Errors
    /// As [`Context::connect`].
    pub async fn connect_relaxed(&self) -> Result<DfsClient, Failure> {
        self.connect_as(DfsClient::builder().relaxed(true)).await
    }

    /// A client that remembers what its operations do.
    ///
    /// # Errors
    /// As [`Context::connect`].
    pub async fn connect_recording(&self) -> Result<DfsClient, Failure> {
        self.connect_as(DfsClient::builder().record_legs(true)).await
    }

    /// A client with settings of its own.
    ///
    /// # Errors
    /// As [`Context::connect`].
    pub async fn connect_as(&self, builder: DfsClientBuilder) -> Result<DfsClient, Failure> {
        tracing::debug!(meta = self.meta, "connecting");
        let name = format!("cairn {} {}, process {}", self.command, env!("CARGO_PKG_VERSION"), std::process::id());
        builder.net(self.net()?).meta(&self.meta).name(name).connect().await.map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => Failure::usage(format_args!("--meta {}", self.meta), error),
            _ => Failure::cluster(&error),
        })
    }

    /// Files in flight at once.
    pub fn jobs(&self, flag: Option<Jobs>) -> usize {
        let jobs = flag.or(self.file.jobs).map_or(JOBS_DEFAULT, Jobs::get);
        usize::try_from(jobs).expect("the number of jobs is small")
    }
}

/// Checks that a path can be one in CairnFS, before anything is done.
///
/// # Errors
/// Usage: it does not begin with `/`.
pub fn remote_path(path: &Path) -> Result<(), Failure> {
    if path.as_os_str().as_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(Failure::usage(text::path(path), "paths in CairnFS begin with `/`"))
}
