//! Running in the background: the program starts itself again in a new session, and returns when the new process is
//! ready, or fails with the error that the new process printed.

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};

/// The environment variable that marks the background process.
const CHILD: &str = "BUSRTD_BACKGROUND";
const READY: &[u8] = b"ready\n";

pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Starts the background process, whose errors go to the standard error output of this one.
pub(crate) fn start() -> Result<ExitCode, String> {
    let failed = |e: std::io::Error| format!("cannot start in the background: {e}");
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut said = vec![];
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut said).map_err(failed)?;
    }
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().map_err(failed)?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Detaches the background process from the terminal and reports that the broker is ready.
pub(crate) fn ready() -> Result<(), String> {
    if !is_child() {
        return Ok(());
    }
    let failed = |e: std::io::Error| format!("cannot run in the background: {e}");
    // This fails only for the leader of a session, which needs no new session.
    let _ = rustix::process::setsid();
    // Lines logged so far belong on the terminal.
    crate::logging::flush();
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    rustix::stdio::dup2_stderr(&null).map_err(|e| failed(e.into()))?;
    std::io::Write::write_all(&mut std::io::stdout(), READY).map_err(failed)?;
    std::io::Write::flush(&mut std::io::stdout()).map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(|e| failed(e.into()))
}
