//! Structured logs on standard error: quiet unless asked.

use std::io;

use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::{failure::Failure, output::say, settings::LogFormat};

/// What the flags, the environment and the file say about logs.
#[derive(Debug)]
pub struct LogSettings {
    /// A filter that was asked for in words.
    pub filter: Option<String>,
    /// How often -v was given.
    pub verbose: u8,
    /// Whether the command is a server: its lines are its only voice, so they carry the time.
    pub server: bool,
    pub format: LogFormat,
}

/// Begins to log.
///
/// # Errors
/// A filter that cannot be read: usage.
pub fn start(settings: &LogSettings) -> Result<(), Failure> {
    let filter = filter(settings.filter.as_deref(), settings.verbose).map_err(|error| {
        let text = settings.filter.as_deref().unwrap_or_default();
        let allowed = "a level (error, warn, info, debug, trace) or a list as `info,cairn_net=debug` is allowed";
        Failure::usage(format_args!("log filter `{text}`"), format_args!("{error}: {allowed}"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let begun = match (settings.format, settings.server) {
        (LogFormat::Json, _) => builder.json().try_init(),
        (LogFormat::Text, true) => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        (LogFormat::Text, false) => {
            builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).without_time().with_target(false).try_init()
        }
    };
    if let Err(error) = begun {
        say(format_args!("cairn: no logs: {error}"));
    }
    Ok(())
}

/// -v adds to what was asked for in words, never takes away.
fn filter(asked: Option<&str>, verbose: u8) -> Result<EnvFilter, ParseError> {
    let base = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    match asked {
        Some(asked) if verbose == 0 => EnvFilter::builder().parse(asked),
        Some(asked) => EnvFilter::builder().parse(format!("{base},{asked}")),
        None => EnvFilter::builder().parse(base),
    }
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn filters() {
        assert_eq!(filter(None, 0).unwrap().to_string(), "warn");
        assert_eq!(filter(None, 1).unwrap().to_string(), "info");
        assert_eq!(filter(Some("error"), 0).unwrap().to_string(), "error");
        assert_eq!(filter(Some("cairn_net=trace"), 2).unwrap().to_string(), "cairn_net=trace,debug");
        assert!(filter(Some("cairn_net=loud"), 0).is_err());
    }
}
