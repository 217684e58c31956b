//! Where the body of an HTTP/1 request ends. The parser reads bodies again; this only has to find
//! the same end or none, so that no byte behind it is shown too early.

/// How much of a body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked(Chunks),
}

/// The body is not framed as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Framing {
    pub fn chunked() -> Self {
        Self::Chunked(Chunks { place: Place::Size, rest: 0, count: 0 })
    }

    pub fn is_ended(&self) -> bool {
        match self {
            Self::Length(rest) => *rest == 0,
            Self::Chunked(chunks) => chunks.place == Place::End,
        }
    }

    /// How many bytes at the front belong to the body.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self {
            Self::Length(rest) => {
                let size = usize::try_from(*rest).unwrap_or(usize::MAX).min(bytes.len());
                *rest -= size as u64;
                Ok(size)
            }
            Self::Chunked(chunks) => chunks.pass(bytes),
        }
    }
}

/// A chunked body on its way (RFC 9112 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    place: Place,
    /// Of the data of this chunk.
    rest: u64,
    /// Digits of this size, bytes of this extension, or bytes of all trailers.
    count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Size,
    /// Behind a size, where only an extension may follow.
    Blank,
    Extension,
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    /// At the front of a trailer, or of the line that ends them.
    TrailerFront,
    Trailer,
    TrailerFeed,
    LastFeed,
    End,
}

impl Chunks {
    fn pass(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at).filter(|_| self.place != Place::End) {
            if self.place == Place::Data {
                let left = bytes.len() - at;
                let size = usize::try_from(self.rest).unwrap_or(usize::MAX).min(left);
                self.rest -= size as u64;
                at += size;
                if self.rest == 0 {
                    self.place = Place::DataReturn;
                }
            } else {
                self.place = self.next(byte)?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// Where the byte leads.
    fn next(&mut self, byte: u8) -> Result<Place, Malformed> {
        let text = byte == b'\t' || !byte.is_ascii_control();
        Ok(match (self.place, byte) {
            (Place::Size, _) if byte.is_ascii_hexdigit() => {
                self.count(DIGITS_MAX)?;
                let digit = char::from(byte).to_digit(16).expect("a digit");
                self.rest = self.rest << 4 | u64::from(digit);
                Place::Size
            }
            (Place::Size, _) if self.count == 0 => return Err(Malformed),
            (Place::Size | Place::Extension, b'\r') => Place::SizeFeed,
            (Place::Size | Place::Blank, b' ' | b'\t') => Place::Blank,
            (Place::Size | Place::Blank, b';') => {
                self.count = 0;
                Place::Extension
            }
            (Place::Extension, _) if text => {
                self.count(EXTENSION_BYTES_MAX)?;
                Place::Extension
            }
            (Place::SizeFeed, b'\n') => {
                self.count = 0;
                if self.rest == 0 { Place::TrailerFront } else { Place::Data }
            }
            (Place::DataReturn, b'\r') => Place::DataFeed,
            (Place::DataFeed, b'\n') => {
                (self.rest, self.count) = (0, 0);
                Place::Size
            }
            (Place::TrailerFront, b'\r') => Place::LastFeed,
            (Place::LastFeed, b'\n') => Place::End,
            (Place::TrailerFront, b' ' | b'\t') => return Err(Malformed),
            (Place::Trailer, b'\r') => Place::TrailerFeed,
            (Place::TrailerFeed, b'\n') => Place::TrailerFront,
            (Place::TrailerFront | Place::Trailer, _) if text => {
                self.count(TRAILER_BYTES_MAX)?;
                Place::Trailer
            }
            _ => return Err(Malformed),
        })
    }

    fn count(&mut self, limit: u32) -> Result<(), Malformed> {
        self.count += 1;
        if self.count > limit { Err(Malformed) } else { Ok(()) }
    }
}

/// More would be no size that anybody sends, and more still would not fit.
const DIGITS_MAX: u32 = 15;
const EXTENSION_BYTES_MAX: u32 = 4096;
const TRAILER_BYTES_MAX: u32 = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes of the text are the body, when it arrives in pieces of `step` bytes.
    fn body(text: &str, step: usize) -> Result<Option<usize>, Malformed> {
        let (mut framing, mut bytes) = (Framing::chunked(), 0);
        for piece in text.as_bytes().chunks(step) {
            bytes += framing.pass(piece)?;
            if framing.is_ended() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    #[test]
    fn the_end_of_chunks_is_found_however_they_arrive() {
        for text in [
            "0\r\n\r\n",
            "4\r\nWiki\r\n5;a=b\r\npedia\r\nE ;c=\"d\"\r\n in\r\n\r\nchunks.\r\n000\r\n\r\n",
            "3\r\n0\r\n\r\n0\r\nX: y\r\nZ: \u{e4}\r\n\r\n",
        ] {
            let more = format!("{text}GET / HTTP/1.1\r\n\r\n");
            for step in 1..more.len() {
                assert_eq!(body(&more, step), Ok(Some(text.len())), "{text:?} by {step}");
                assert_eq!(body(&text[..text.len() - 1], step), Ok(None), "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let long = format!("1;{}\r\n", "x".repeat(5000));
        let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(3000));
        for bad in [
            "\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\n",
            "1 1\r\n",
            "1\n",
            "1;a\n",
            "1\ra",
            "1\r\naX",
            "1\r\na\rX",
            "1\r\na\n",
            ";a\r\n",
            "1;\0\r\n",
            "0\r\n X: y\r\n",
            "0\r\nX: y\n",
            "0\r\n\n",
            "g\r\n",
            "1111111111111111\r\n",
            &long,
            &trailers,
        ] {
            for step in [1, 2, bad.len()] {
                assert_eq!(body(bad, step), Err(Malformed), "{bad:.40?} by {step}");
            }
        }
    }

    #[test]
    fn a_length_is_counted() {
        let mut framing = Framing::Length(5);
        assert_eq!(framing.pass(b"abc"), Ok(3));
        assert!(!framing.is_ended());
        assert_eq!(framing.pass(b"defg"), Ok(2));
        assert!(framing.is_ended());
    }
}
