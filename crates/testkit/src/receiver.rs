//! A receiver on loopback that records what it gets and answers as the test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::now_ms;

/// A request as it was received, with the status that it got.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at_ms: i64,
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub status: u16,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn subject(&self) -> String {
        self.json()["subject"].as_str().unwrap_or_default().to_owned()
    }
}

/// In the headers of an [`Answer`], and not sent: how long the answer is held back.
pub const DELAY_MS: &str = "delay-ms";

/// Status, headers and body of an answer. Status 0: the connection is closed without an answer.
pub type Answer = (u16, Vec<(String, String)>, String);
type Answering = Box<dyn FnMut(&Seen) -> Answer + Send>;

#[derive(Clone)]
pub struct Receiver {
    pub port: u16,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    seen: Vec<Seen>,
    answer: Answering,
}

impl Receiver {
    /// Answers 200 `{}` until told otherwise; serves until the process ends.
    pub fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer: Answering = Box::new(|_| (200, Vec::new(), "{}".to_owned()));
        let shared = Arc::new(Mutex::new(Shared { seen: Vec::new(), answer }));
        let receiver = Receiver { port, shared };
        let accepting = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = accepting.clone();
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        receiver
    }

    /// From now on answers this way.
    pub fn answer(&self, answer: impl FnMut(&Seen) -> Answer + Send + 'static) {
        self.shared.lock().unwrap().answer = Box::new(answer);
    }

    /// From now on answers with this status.
    pub fn status(&self, status: u16) {
        self.answer(move |_| (status, Vec::new(), "{}".to_owned()));
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().unwrap().seen.clone()
    }

    /// Those answered 2xx.
    pub fn ok(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| (200..300).contains(&seen.status)).collect()
    }

    pub fn ok_about(&self, subject: &str) -> Vec<Seen> {
        self.ok().into_iter().filter(|seen| seen.subject() == subject).collect()
    }

    pub fn forget(&self) {
        self.shared.lock().unwrap().seen.clear();
    }

    fn serve(&self, stream: TcpStream) {
        let mut writer = match stream.try_clone() {
            Ok(writer) => writer,
            Err(_) => return,
        };
        let mut reader = BufReader::new(stream);
        while let Some(mut seen) = read(&mut reader) {
            let answer = {
                let mut shared = self.shared.lock().unwrap();
                let answer = (shared.answer)(&seen);
                seen.status = answer.0;
                shared.seen.push(seen);
                answer
            };
            if answer.0 == 0 {
                return;
            }
            let delay = answer.1.iter().find(|(name, _)| name == DELAY_MS);
            if let Some(ms) = delay.and_then(|(_, ms)| ms.parse().ok()) {
                std::thread::sleep(Duration::from_millis(ms));
            }
            let mut head = format!("HTTP/1.1 {} X\r\ncontent-type: application/json\r\n", answer.0);
            for (name, value) in answer.1.iter().filter(|(name, _)| name != DELAY_MS) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str(&format!("content-length: {}\r\n\r\n{}", answer.2.len(), answer.2));
            if writer.write_all(head.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { at_ms: now_ms(), method, path, headers, body, status: 0 })
}
