//! The secret itself: its grammar, its checksum and its digest. Nothing here prints a token.

use std::collections::HashSet;
use std::fmt;

use aws_lc_rs::{digest, rand};

/// A bearer token as it came in, known to be of the right grammar. It borrows from the request
/// and lives no longer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BearerToken<'a>(&'a [u8]);

impl<'a> BearerToken<'a> {
    pub const BYTES_MAX: usize = 4096;

    /// Takes 1 to 4096 printable ASCII bytes without blank and comma. That is wider than the
    /// `b64token` of RFC 6750, since tokens made by others are enrolled too; a comma would make
    /// two joined headers look like one token.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let allowed = |&byte: &u8| byte.is_ascii_graphic() && byte != b',';
        let sized = (1..=Self::BYTES_MAX).contains(&bytes.len());
        // Without an early end, which lets the processor look at many bytes at a time.
        let all_allowed = || bytes.iter().fold(true, |all, byte| all & allowed(byte));
        (sized && all_allowed()).then_some(Self(bytes))
    }

    pub fn digest(self) -> TokenDigest {
        TokenDigest::of(self.0)
    }

    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether it can be guessed at once: it has less than 20 characters or 8 different ones.
    pub fn is_weak(self) -> bool {
        let kinds: HashSet<_> = self.0.iter().collect();
        self.0.len() < 20 || kinds.len() < 8
    }
}

impl fmt::Debug for BearerToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(..)")
    }
}

/// SHA-256 of a token: the only form in which we keep one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub fn of(token: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, token);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Reads `sha256:` and 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.strip_prefix("sha256:")?, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// A digest as it was kept, by [`Self::as_bytes`].
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 well-mixed bits, for maps that need no hash of their own.
    pub fn bits(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("eight bytes"))
    }
}

/// The form that configuration files use.
impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

/// A token made by us: `scimg_`, 43 random characters, `_` and 6 characters of checksum.
/// The prefix lets leak scanners find it, the checksum lets them and us tell a mistyped one.
pub struct MintedToken(String);

impl MintedToken {
    /// A bearer token for SCIM.
    pub fn mint() -> Self {
        Self::with(PREFIX)
    }

    /// A token for the admin API, which no SCIM endpoint takes.
    pub fn mint_admin() -> Self {
        Self::with(ADMIN_PREFIX)
    }

    /// 43 characters of 62 hold 256 random bits.
    fn with(prefix: &str) -> Self {
        let body = format!("{prefix}{}", random_text::<62>(RANDOM_LEN));
        let checksum = checksum(body.as_bytes());
        Self(format!("{body}_{}", String::from_utf8_lossy(&checksum)))
    }

    /// The secret, to be shown once to whom it was made for.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn digest(&self) -> TokenDigest {
        TokenDigest::of(self.0.as_bytes())
    }
}

/// The last characters of a token, by which people tell two apart.
pub fn hint(token: &str) -> String {
    token.get(token.len().saturating_sub(4)..).unwrap_or_default().to_owned()
}

/// Random characters, each one of the first `KINDS` of 0-9 a-z A-Z with the same chance.
pub(super) fn random_text<const KINDS: u8>(length: usize) -> String {
    let mut text = String::with_capacity(length);
    // Of 256 values the last few would make some letters likelier than others.
    let fair = u8::MAX - u8::MAX % KINDS;
    let mut bytes = [0; 64];
    while text.len() < length {
        rand::fill(&mut bytes).expect("the system's random source works");
        let letters = bytes.iter().filter(|&&byte| byte < fair).map(|byte| byte % KINDS);
        let missing = length - text.len();
        text.extend(letters.take(missing).map(|index| LETTERS[usize::from(index)] as char));
    }
    text
}

const LETTERS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Whether a token has the shape of ours, and then whether its checksum fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Foreign,
    Ours { intact: bool },
}

impl Shape {
    pub fn of(token: &[u8]) -> Self {
        if !token.starts_with(PREFIX.as_bytes()) {
            return Self::Foreign;
        }
        let intact = token.len() == PREFIX.len() + RANDOM_LEN + 1 + CHECKSUM_LEN
            && token[PREFIX.len() + RANDOM_LEN] == b'_'
            && token[PREFIX.len()..PREFIX.len() + RANDOM_LEN].iter().all(u8::is_ascii_alphanumeric)
            && token[PREFIX.len() + RANDOM_LEN + 1..]
                == checksum(&token[..PREFIX.len() + RANDOM_LEN]);
        Self::Ours { intact }
    }
}

/// CRC-32 (IEEE) of all before the last `_`, in base 62 with the digits 0-9 A-Z a-z.
fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut rest = crc32fast::hash(body) as usize;
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    digits
}

/// What every token of ours begins with.
pub const PREFIX: &str = "scimg_";
/// What every token for the admin API begins with, if we have made it.
pub const ADMIN_PREFIX: &str = "scimadm_";
const RANDOM_LEN: usize = 43;
const CHECKSUM_LEN: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_takes_foreign_tokens_and_no_ambiguity() {
        let longest = "x".repeat(BearerToken::BYTES_MAX);
        for good in ["a", "abc.DEF-_~+/==", "p@ss;word\"'{}", &longest] {
            assert!(BearerToken::parse(good.as_bytes()).is_some(), "{good}");
        }
        let too_long = "x".repeat(BearerToken::BYTES_MAX + 1);
        for bad in ["", "a b", "a,b", "a\tb", "a\nb", "ä", "\x7f", &too_long] {
            assert!(BearerToken::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_minted_token_is_intact_until_a_character_changes() {
        let token = MintedToken::mint();
        let bytes = token.reveal().as_bytes();
        assert_eq!(bytes.len(), 56);
        assert_eq!(Shape::of(bytes), Shape::Ours { intact: true });
        for place in PREFIX.len()..bytes.len() {
            let mut typo = bytes.to_vec();
            typo[place] = if typo[place] == b'x' { b'y' } else { b'x' };
            assert_eq!(Shape::of(&typo), Shape::Ours { intact: false }, "changed at {place}");
        }
        assert_eq!(Shape::of(&bytes[..55]), Shape::Ours { intact: false });
        assert_eq!(Shape::of(b"eyJhbGciOi"), Shape::Foreign);
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        // CRC-32 of "123456789" is 0xCBF43926 by every catalogue; 3421780262 in base 62.
        assert_eq!(&checksum(b"123456789"), b"3jZRME");
    }

    #[test]
    fn a_digest_is_what_sha256sum_prints() {
        let printed = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
        assert_eq!(TokenDigest::of(b"foo").to_string(), printed);
        assert_eq!(TokenDigest::parse(printed), Some(TokenDigest::of(b"foo")));
        for bad in [&printed[7..], &printed[..70], "sha256:", "md5:00", ""] {
            assert_eq!(TokenDigest::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn nothing_of_a_token_can_be_printed() {
        let token = BearerToken::parse(b"very-secret").expect("valid");
        assert_eq!(format!("{token:?} {:?}", token.digest()), "BearerToken(..) TokenDigest(..)");
    }
}
