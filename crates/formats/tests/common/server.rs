//! A hub of one's own: enough of its protocol to fetch models from, on a local port.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The commit of the main branch, and of the branch `old`.
pub const COMMIT: &str = "1111111111111111111111111111111111111111";
pub const OLD: &str = "2222222222222222222222222222222222222222";

/// Files of a repository by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Repositories by id and commit, and what was asked.
#[derive(Default)]
pub struct Hub {
    pub repositories: BTreeMap<(String, &'static str), Files>,
    /// Repositories that ask for this token.
    pub gated: BTreeMap<String, String>,
    /// Repositories whose downloads break off after so many bytes.
    pub short: BTreeMap<String, usize>,
    pub asked: Mutex<Vec<String>>,
}

impl Hub {
    /// Starts to answer; the result is the address.
    pub fn start(self: Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let hub = self.clone();
                std::thread::spawn(move || hub.answer(stream));
            }
        });
        address
    }

    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut request = String::new();
        reader.read_line(&mut request).ok()?;
        let (mut token, mut range) = (String::new(), None);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 || line.trim().is_empty() {
                break;
            }
            let (name, value) = line.trim().split_once(": ")?;
            match name.to_ascii_lowercase().as_str() {
                "authorization" => token = value.trim_start_matches("Bearer ").to_owned(),
                "range" => range = value.strip_prefix("bytes=").and_then(|r| r.split_once('-')).map(|r| r.0.to_owned()),
                _ => {}
            }
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next()?, words.next()?.split('?').next()?);
        self.asked.lock().unwrap().push(format!("{method} {path}"));
        let reply = self.reply(path, &token);
        let start = range.and_then(|start| start.parse::<usize>().ok()).filter(|_| reply.file).unwrap_or(0);
        let status = if start > 0 && reply.status == 200 { 206 } else { reply.status };
        let body = &reply.body[start.min(reply.body.len())..];
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if status == 206 {
            let end = reply.body.len() - 1;
            head += &format!("Content-Range: bytes {start}-{end}/{}\r\n", reply.body.len());
        }
        reply.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        let mut stream = stream;
        stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        if method != "HEAD" {
            stream.write_all(&body[..body.len() - reply.cut.min(body.len())]).ok()?;
        }
        stream.flush().ok()
    }

    fn reply(&self, path: &str, token: &str) -> Reply {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let error = |status, code: &str| Reply {
            status,
            headers: vec![("X-Error-Code".into(), code.into())],
            body: br#"{"error":"no"}"#.to_vec(),
            ..Reply::default()
        };
        let (id, kind, revision, rest) = match parts.as_slice() {
            ["api", "models", owner, name] => (format!("{owner}/{name}"), "revision", "main", vec![]),
            ["api", "models", owner, name, kind, revision, ..] => (format!("{owner}/{name}"), *kind, *revision, vec![]),
            [owner, name, "resolve", revision, rest @ ..] => {
                (format!("{owner}/{name}"), "resolve", *revision, rest.to_vec())
            }
            _ => return error(400, "BadRequest"),
        };
        if self.gated.get(&id).is_some_and(|needed| needed != token) {
            return error(401, "GatedRepo");
        }
        let commit = match revision {
            "main" | COMMIT => COMMIT,
            "old" | OLD => OLD,
            _ => "",
        };
        let Some(files) = self.repositories.get(&(id.clone(), commit)) else {
            let known = self.repositories.keys().any(|(known, _)| *known == id);
            return error(404, if known { "RevisionNotFound" } else { "RepoNotFound" });
        };
        let json = |value: serde_json::Value| Reply { body: value.to_string().into_bytes(), ..Reply::default() };
        match kind {
            "revision" => json(serde_json::json!({"id": id, "_id": "0", "sha": commit, "siblings": []})),
            "tree" => {
                let entry = |(path, bytes): (&String, &Vec<u8>)| serde_json::json!({"type": "file", "oid": "0", "size": bytes.len(), "path": path});
                json(files.iter().map(entry).collect())
            }
            _ => match files.get(&rest.join("/")) {
                None => error(404, "EntryNotFound"),
                Some(bytes) => Reply {
                    headers: vec![
                        (
                            "ETag".into(),
                            format!(
                                "\"{:x}\"",
                                blake3::hash(bytes).as_bytes().iter().fold(0u128, |h, b| h.rotate_left(8) ^ *b as u128)
                            ),
                        ),
                        ("X-Repo-Commit".into(), commit.into()),
                        ("Accept-Ranges".into(), "bytes".into()),
                    ],
                    cut: self.short.get(&id).map_or(0, |keep| bytes.len().saturating_sub(*keep)),
                    body: bytes.clone(),
                    file: true,
                    ..Reply::default()
                },
            },
        }
    }
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    file: bool,
    cut: usize,
}

impl Default for Reply {
    fn default() -> Self {
        Reply { status: 200, headers: Vec::new(), body: Vec::new(), file: false, cut: 0 }
    }
}
