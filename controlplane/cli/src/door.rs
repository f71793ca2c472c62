//! The way to an engine's door: its socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dwcp_proto::engine_v3::engine_client::EngineClient;
use tonic::transport::{Channel, Endpoint};

use crate::problem::{Exit, Problem};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The engine's own default, as `dwcp-engine serve` documents it.
pub fn default_socket() -> PathBuf {
    let is_root = std::fs::metadata("/proc/self")
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if is_root {
        return PathBuf::from("/run/dwcp/engine.sock");
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR");
    runtime.map_or_else(std::env::temp_dir, PathBuf::from).join("dwcp/engine.sock")
}

/// A connection to the engine at `socket`.
///
/// # Errors
/// Nobody answers there.
pub async fn connect(socket: &Path) -> Result<Channel, Problem> {
    let shown = socket.display();
    let absolute = std::path::absolute(socket)
        .map_err(|e| Problem::new(Exit::Usage, format!("--socket {shown}: {e}")))?;
    let Some(text) = absolute.to_str() else {
        return Err(Problem::new(Exit::Usage, format!("--socket {shown} is no UTF-8")));
    };
    let endpoint = Endpoint::from_shared(format!("unix://{text}"))
        .map_err(|e| Problem::new(Exit::Usage, format!("--socket {shown}: {e}")))?;
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await;
    let why = match connected {
        Ok(Ok(channel)) => return Ok(channel),
        Ok(Err(error)) => deepest(&error),
        Err(_) => format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
    };
    let text = format!("no engine answers at {shown} ({why}): start it with dwcp-engine serve");
    Err(Problem::new(Exit::Unreachable, text))
}

/// A client of the engine at `socket`.
///
/// # Errors
/// Nobody answers there.
pub async fn engine(socket: &Path) -> Result<EngineClient<Channel>, Problem> {
    Ok(EngineClient::new(connect(socket).await?))
}

/// The innermost cause: the outer ones only say that something failed.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
