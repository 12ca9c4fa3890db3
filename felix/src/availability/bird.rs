//! What the speaker's BIRD socket says: whether it is there, its sessions, whether it still recovers.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long the speaker may take for all of it: one that is dead must not keep anybody waiting.
const PATIENCE: Duration = Duration::from_secs(2);
/// No answer is longer, in octets.
const LONGEST: usize = 4 << 20;

/// What a socket said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its sessions with configured peers: the peer's address, and whether the session is Established.
    pub(crate) peers: Vec<(String, bool)>,
    /// Whether a graceful restart is still being recovered from.
    pub(crate) recovering: bool,
}

/// Asks the socket at `path`.
///
/// # Errors
/// A sentence on why there is no answer.
pub(crate) async fn ask(path: &Path) -> Result<Answer, String> {
    ask_within(path, PATIENCE).await
}

async fn ask_within(path: &Path, patience: Duration) -> Result<Answer, String> {
    let asked = timeout(patience, converse(path)).await;
    let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {} s", patience.as_secs_f32())));
    asked.map_err(|reason| format!("bgp-speaker on {}: {reason}", path.display()))
}

async fn converse(path: &Path) -> Result<Answer, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = BufReader::new(UnixStream::connect(path).await.map_err(text)?);
    let greeting = reply(&mut stream).await?;
    if !greeting.iter().any(|(_, line)| line.starts_with("BIRD")) {
        return Err(format!("it does not speak as BIRD does: {greeting:?}"));
    }
    let mut replies = Vec::new();
    for command in ["show status\n", "show protocols\n"] {
        stream.get_mut().write_all(command.as_bytes()).await.map_err(text)?;
        replies.extend(reply(&mut stream).await?);
    }
    Ok(read(&replies))
}

type Line = (u16, String);

/// One reply: lines of a code, and a text; the last one's code is followed by a blank.
async fn reply(stream: &mut BufReader<UnixStream>) -> Result<Vec<Line>, String> {
    let (mut lines, mut code, mut length) = (Vec::new(), 0, 0);
    loop {
        let mut line = String::new();
        let read = stream.read_line(&mut line).await.map_err(|error| error.to_string())?;
        length += read;
        if read == 0 || length > LONGEST {
            return Err("its answer broke off".to_owned());
        }
        let line = line.trim_end_matches('\n');
        if let Some(more) = line.strip_prefix(' ') {
            lines.push((code, more.to_owned()));
            continue;
        }
        let number = line.get(..4).and_then(|digits| digits.parse().ok());
        let (Some(number), Some(mark)) = (number, line.get(4..5)) else {
            return Err(format!("\"{line}\" is no line of a reply"));
        };
        code = number;
        lines.push((code, line.get(5..).unwrap_or_default().to_owned()));
        if mark == " " {
            return Ok(lines);
        }
    }
}

/// Sessions are in lines of code 1002: name, protocol, table, state, since, info.
fn read(lines: &[Line]) -> Answer {
    let recovering =
        lines.iter().any(|(_, line)| line.trim_start().starts_with("Graceful restart recovery in progress"));
    let sessions = lines.iter().filter(|(code, _)| *code == 1002).filter_map(|(_, line)| {
        let name = line.split_whitespace().next()?;
        let address = ["Mesh_", "Global_", "Node_"].iter().find_map(|prefix| name.strip_prefix(prefix))?;
        Some((address.replace('_', "."), line.split_whitespace().any(|word| word == "Established")))
    });
    Answer { peers: sessions.collect(), recovering }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// A socket that answers with these octets, whatever it is asked, and then stays silent or hangs up.
    async fn asked(answer: &'static str, hang_up: bool) -> Result<Answer, String> {
        // Only what stays silent is waited for.
        let patience = if hang_up { Duration::from_secs(20) } else { Duration::from_millis(50) };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bird.ctl");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            if hang_up {
                stream.shutdown().await.unwrap(); // its own side only: it goes on hearing what is asked
            }
            std::future::pending::<()>().await;
        });
        let result = ask_within(&path, patience).await;
        server.abort();
        result.map_err(|reason| reason.replace(&path.display().to_string(), "bird.ctl"))
    }

    #[tokio::test]
    async fn sessions_are_found_and_every_way_of_not_answering_is_told_in_time() {
        let good = "0001 BIRD v0.3.3+birdv1.6.8 ready.\n1000-BIRD v0.3.3\n0024-Graceful restart recovery in progress\n   Waiting\n\
                    0013 Daemon is up and running\n2002-name     proto    table    state  since       info\n\
                    1002-kernel1  Kernel   master   up     10:00:00\n Mesh_192_0_2_2 BGP master up 10:00:00  Established\n \
                    Node_192_0_2_3 BGP master start 10:00:00  Active\n0000 \n";
        let expected =
            Answer { peers: vec![("192.0.2.2".to_owned(), true), ("192.0.2.3".to_owned(), false)], recovering: true };
        assert_eq!(asked(good, true).await, Ok(expected));
        let error = |text: &str| Err(format!("bgp-speaker on bird.ctl: {text}"));
        assert_eq!(asked("0001 BIRD ready.\n", false).await, error("no answer within 0.05 s"));
        assert_eq!(asked("0001 BIRD ready.\n1000-BIRD\n", true).await, error("its answer broke off"));
        assert_eq!(asked("hello\n", true).await, error("\"hello\" is no line of a reply"));
        assert_eq!(asked("\u{e9}\u{e9}\u{e9}\n", true).await, error("\"\u{e9}\u{e9}\u{e9}\" is no line of a reply"));
        let nobody = ask(Path::new("/nowhere/bird.ctl")).await.unwrap_err();
        assert_eq!(nobody, "bgp-speaker on /nowhere/bird.ctl: No such file or directory (os error 2)");
    }
}
