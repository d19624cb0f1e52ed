//! Standard output, from which the reader may turn away at any time.

use std::io::{ErrorKind, Write};

/// Prints text and a newline. A closed pipe ends the program quietly, as it should in `brevity recipes | head -1`.
pub fn line(text: &str) -> anyhow::Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints bytes, likewise.
pub fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}
