//! What the parser of an HTTP/1 connection is shown of the bytes that arrive: one request at a
//! time. Each head is read before the parser sees a byte of it, and what comes behind a request
//! waits until that request is answered and its body has ended.

use bytes::{Buf, BytesMut};

use super::framing::{Framing, Malformed};
use super::head::{Head, HeadFault, HeadSearch, Rewritten, is_hopeless, stand_in};

pub struct Intake {
    stage: Stage,
    search: HeadSearch,
    /// Received and not to be shown yet.
    held: BytesMut,
    /// To be shown before anything else.
    due: BytesMut,
    head_bytes_max: usize,
    /// The client sends no more.
    finished: bool,
    query: Option<Vec<u8>>,
    fault: Option<HeadFault>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Body(Framing),
    /// The request has come in full; the next one must wait.
    Over,
    /// Nothing more is shown.
    Closed,
}

impl Intake {
    pub fn new(head_bytes_max: usize) -> Self {
        Self {
            stage: Stage::Head,
            search: HeadSearch::default(),
            held: BytesMut::new(),
            due: BytesMut::new(),
            head_bytes_max,
            finished: false,
            query: None,
            fault: None,
        }
    }

    /// The query of the request that has just begun, if the parser was shown another one.
    pub fn take_query(&mut self) -> Option<Vec<u8>> {
        self.query.take()
    }

    /// Why the request that has just begun is only a stand-in.
    pub fn fault(&self) -> Option<HeadFault> {
        self.fault
    }

    /// Whether the next bytes belong to a head.
    pub fn is_at_head(&self) -> bool {
        self.stage == Stage::Head
    }

    /// Whether the client may be sending something that nobody reads.
    pub fn is_cut_off(&self) -> bool {
        !matches!(self.stage, Stage::Head | Stage::Over) || !self.held.is_empty()
    }

    /// Whether nothing is shown until the present request is answered.
    pub fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Over | Stage::Closed)
    }

    /// Whether there is more to show once it is.
    pub fn has_more(&self) -> bool {
        self.finished || !self.held.is_empty()
    }

    /// Whether no more should be read until then.
    pub fn is_full(&self) -> bool {
        self.stage == Stage::Closed || self.finished || self.held.len() >= self.head_bytes_max
    }

    /// The present request is answered; another one may begin.
    pub fn next(&mut self) {
        if self.stage == Stage::Over {
            self.stage = Stage::Head;
        }
    }

    pub fn finish(&mut self) {
        self.finished = true;
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    pub fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// How many of the bytes that were just received can be shown as they are; the others are held.
    /// This is how almost all bytes pass, so that none of them is copied.
    pub fn pass(&mut self, bytes: &[u8]) -> usize {
        if !self.held.is_empty() {
            self.hold(bytes);
            return 0;
        }
        let mut passed = 0;
        if self.stage == Stage::Head {
            let mut search = HeadSearch::default();
            let end = search.end(bytes).filter(|end| *end <= self.head_bytes_max && !search.bare);
            let head = end.and_then(|end| Some((end, Head::read(&bytes[..end]).ok()?)));
            if let Some((end, Head { framing, rewritten: None })) = head {
                self.begin(framing);
                passed = end;
            }
        }
        if let Stage::Body(mut framing) = self.stage {
            // What is malformed is looked at again, and told, once what is before it was shown.
            if let Ok(size) = framing.pass(&bytes[passed..]) {
                passed += size;
                self.proceed(framing);
            }
        }
        self.hold(&bytes[passed..]);
        passed
    }

    /// What of the held bytes can be shown, with this much room for it; nothing if more must come
    /// first, or the present request be answered.
    pub fn show(&mut self, room: usize) -> Result<BytesMut, Malformed> {
        if self.due.is_empty() && self.stage == Stage::Head {
            self.read_head();
        }
        if !self.due.is_empty() {
            return Ok(self.due.split_to(room.min(self.due.len())));
        }
        let Stage::Body(mut framing) = self.stage else { return Ok(BytesMut::new()) };
        let size = framing.pass(&self.held[..room.min(self.held.len())]).inspect_err(|_| {
            self.stage = Stage::Closed;
        })?;
        self.proceed(framing);
        Ok(self.held.split_to(size))
    }

    fn read_head(&mut self) {
        if self.held.is_empty() {
            return;
        }
        // Line ends before a request are passed over (RFC 9112 section 2.2).
        let blank = self.held.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if blank > 0 {
            self.held.advance(blank);
            self.search = HeadSearch::default();
        }
        let front = self.held.len().min(self.head_bytes_max);
        let Some(end) = self.search.end(&self.held[..front]) else {
            if self.held.len() > self.head_bytes_max {
                self.refuse(HeadFault::TooLarge("the request's head is too large"));
            } else if is_hopeless(&self.held) {
                self.refuse(HeadFault::Framing("this is no HTTP/1 request"));
            }
            return;
        };
        let bare = std::mem::take(&mut self.search).bare;
        match Head::read(&self.held[..end]) {
            Ok(_) if bare => {
                self.refuse(HeadFault::Framing("a line of the head ends without a return"));
            }
            Ok(Head { framing, rewritten }) => {
                let head = self.held.split_to(end);
                self.begin(framing);
                self.due = head;
                if let Some(Rewritten { head, query }) = rewritten {
                    self.due = BytesMut::from(&head[..]);
                    self.query = Some(query);
                }
            }
            Err(fault) => self.refuse(fault),
        }
    }

    fn begin(&mut self, framing: Framing) {
        self.query = None;
        self.search = HeadSearch::default();
        self.proceed(framing);
    }

    fn proceed(&mut self, framing: Framing) {
        self.stage = if framing.is_ended() { Stage::Over } else { Stage::Body(framing) };
    }

    fn refuse(&mut self, fault: HeadFault) {
        let front = self.held.len().min(self.head_bytes_max);
        self.due = BytesMut::from(&stand_in(&self.held[..front])[..]);
        self.fault = Some(fault);
        self.stage = Stage::Closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of bytes that arrive in pieces of `step`, request by request; each is taken to
    /// be answered once nothing more of it comes.
    fn shown(bytes: &str, step: usize) -> Vec<String> {
        let mut intake = Intake::new(200);
        let mut requests = vec![Vec::new()];
        let mut pieces = bytes.as_bytes().chunks(step);
        loop {
            let part = intake.show(7).expect("well framed");
            let request = requests.last_mut().expect("one at least");
            if !part.is_empty() {
                request.extend_from_slice(&part);
            } else if intake.is_waiting() && intake.fault().is_none() && !request.is_empty() {
                intake.next();
                requests.push(Vec::new());
            } else if let Some(piece) = pieces.next().filter(|_| intake.fault().is_none()) {
                let passed = intake.pass(piece);
                request.extend_from_slice(&piece[..passed]);
            } else {
                break;
            }
        }
        let text = |bytes| String::from_utf8(bytes).expect("text");
        requests.into_iter().map(text).filter(|it| !it.is_empty()).collect()
    }

    #[test]
    fn requests_are_shown_one_by_one_however_they_arrive() {
        let get = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
        let sized = "POST /b HTTP/1.1\r\nContent-Length: 20\r\n\r\nGET / HTTP/1.1\r\n\r\n\r\n";
        let chunked =
            "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\r\n\r\n0\r\nX: y\r\n\r\n";
        let all = [get, sized, "\r\n", get, chunked, chunked, "\r\n\r\n", sized, get].concat();
        for step in 1..=all.len() {
            let expected = [get, sized, get, chunked, chunked, sized, get];
            assert_eq!(shown(&all, step), expected, "in pieces of {step}");
        }
    }

    #[test]
    fn nothing_is_shown_of_a_faulty_head_nor_of_what_is_behind_it() {
        let get = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
        let stand_in = "GET /b HTTP/1.1\r\nConnection: close\r\n\r\n";
        let long = format!("GET /b HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(200));
        for fault in [
            "GET /b HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "GET /b HTTP/1.1\nX: y\r\n\r\n",
            "GET /b#c HTTP/1.1\r\n\r\n",
            &long,
        ] {
            let all = [get, fault, get].concat();
            for step in 1..=all.len() {
                assert_eq!(shown(&all, step), [get, stand_in], "{fault:?} in pieces of {step}");
            }
        }
    }
}
