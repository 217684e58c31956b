//! Good clients that ask without a pause, and must not notice what happens meanwhile.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::guard::{TOKEN, wait_for};
use crate::http::Client;

pub struct Traffic {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Half of the clients keep their connections as long as they may, the others connect anew for
    /// each request. GET and POST take turns. Any answer but 200, and any connection that is
    /// refused or reset, fails the test.
    pub fn start<S: Read + Write>(
        path: &str,
        connect: impl Fn() -> Client<S> + Send + Sync + 'static,
    ) -> Self {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let connect = Arc::new(connect);
        let head = format!("{path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n");
        let start = |keeps: bool| {
            let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
            let (connect, head) = (Arc::clone(&connect), head.clone());
            std::thread::spawn(move || {
                let mut client = None;
                while !over.load(Ordering::Relaxed) {
                    let number = answered.fetch_add(1, Ordering::Relaxed);
                    let request = match number % 2 {
                        0 => format!("GET {head}\r\n"),
                        _ => format!("POST {head}Content-Length: 2\r\n\r\n{{}}"),
                    };
                    let mut current = client.take().unwrap_or_else(|| connect());
                    let reply = current.send(&request);
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    let told_to_go = reply.header("connection") == Some("close");
                    client = Some(current).filter(|_| keeps && !told_to_go);
                }
            })
        };
        let clients = [true, true, false, false].map(start).into();
        Self { over, answered, clients }
    }

    /// Waits for so many requests more.
    pub fn wait_for_more(&self, count: usize) {
        let wanted = self.answered.load(Ordering::Relaxed) + count;
        let failed = || self.clients.iter().any(JoinHandle::is_finished);
        wait_for("traffic", || self.answered.load(Ordering::Relaxed) >= wanted || failed());
    }

    /// Fails if any request has.
    pub fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no request has failed");
        }
    }
}
