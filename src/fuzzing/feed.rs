//! What an admin API tells its replicas, and they it: it is read as it would be written, and a
//! stream of it means the same however it is cut.
//!
//! The first byte of an input says which kind of message it is.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Trial;
use crate::credential::feed::{Change, Changes, Head, Page, Position, Report, Row};
use crate::source::native::{Batches, Unread};
use crate::source::wire::{ChangesJson, HeadJson, LookupJson, PageJson, ReportJson, RowJson};

pub fn target() -> Trial {
    Box::new(|input| match input.split_first() {
        Some((b'p', text)) => {
            check(text, |it| Page::try_from(it).ok(), |it| PageJson::of(it, true))
        }
        Some((b'c', text)) => {
            check(text, |it| Changes::try_from(it).ok(), |it| ChangesJson::of(it, true));
        }
        Some((b'h', text)) => check(text, |it| Head::try_from(it).ok(), |it| HeadJson::from(it)),
        Some((b'r', text)) => {
            check(text, |it| Report::try_from(it).ok(), |it| ReportJson::from(it))
        }
        Some((b'l', text)) => check(
            text,
            |it: &LookupJson| Some((Head::try_from(&it.head).ok()?, Row::try_from(&it.row).ok()?)),
            |(head, row)| LookupJson { head: head.into(), row: RowJson::of(row, true) },
        ),
        Some((b's', text)) => check_stream(text),
        _ => {}
    })
}

/// What can be read is read again from what is written of it.
fn check<Json: DeserializeOwned + Serialize, T: PartialEq + Debug>(
    text: &[u8],
    read: impl Fn(&Json) -> Option<T>,
    write: impl Fn(&T) -> Json,
) {
    let Ok(json) = serde_json::from_slice::<Json>(text) else { return };
    let Some(value) = read(&json) else { return };
    let written = serde_json::to_string(&write(&value)).expect("plain data");
    let again: Json = serde_json::from_str(&written).expect("as it was written");
    assert_eq!(read(&again).as_ref(), Some(&value), "{written}");
}

fn check_stream(text: &[u8]) {
    let whole = read_stream(text, text.len());
    for size in [1, 7, 64] {
        assert_eq!(read_stream(text, size), whole, "in pieces of {size}");
    }
}

/// All batches, and why there are no more of them.
fn read_stream(text: &[u8], size: usize) -> (Vec<(Vec<Change>, Position)>, Option<Unread>) {
    let mut batches = Batches::default();
    let mut all = Vec::new();
    for piece in text.chunks(size.max(1)) {
        batches.push(piece);
        loop {
            match batches.next() {
                Ok(Some(batch)) => all.push(batch),
                Ok(None) => break,
                Err(unread) => return (all, Some(unread)),
            }
        }
    }
    (all, None)
}
