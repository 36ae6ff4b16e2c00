//! Commands of stock replication clients (PostgreSQL src/backend/replication/repl_gram.y), with the acceptor
//! protocol's `(term='N')`. Keywords are upper case, as every client sends them; text behind a command that is
//! complete is ignored.

use firn_core::types::{Lsn, PostgresTimeline, Term};

use super::{CommandError, echo};

/// Longest name of a slot (PostgreSQL NAMEDATALEN without its NUL).
const SLOT_NAME_BYTES_MAX: usize = 63;

/// What a stream of WAL is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartReplication {
    /// The slot whose position the reader moves.
    pub slot: Option<String>,
    /// Where to begin.
    pub start: Lsn,
    /// Postgres' timeline, at whose end the stream ends. Without it all of the log is streamed.
    pub timeline: Option<PostgresTimeline>,
    /// Uncommitted WAL too, but of this term only.
    pub term: Option<Term>,
}

/// `[SLOT name] [PHYSICAL] H/L [TIMELINE n | (term='N')]`.
pub(super) fn parse_start(text: &str) -> Option<StartReplication> {
    let mut words = Words(text);
    let mut word = words.next()?;
    let slot = match word {
        Word::Plain("SLOT") => {
            let name = words.slot_name()?;
            word = words.next()?;
            Some(name)
        }
        _ => None,
    };
    if word == Word::Plain("PHYSICAL") {
        word = words.next()?;
    }
    let start = word.plain()?.parse().ok()?;
    let (mut timeline, mut term) = (None, None);
    match words.next() {
        Some(Word::Plain("TIMELINE")) => timeline = Some(words.timeline()?),
        Some(Word::Symbol('(')) => {
            let expected = [Word::Plain("term"), Word::Symbol('=')];
            if expected.into_iter().any(|expected| words.next() != Some(expected)) {
                return None;
            }
            let Some(Word::Text(number)) = words.next() else { return None };
            term = Some(Term(number.parse().ok()?));
        }
        _ => {}
    }
    Some(StartReplication { slot, start, timeline, term })
}

/// What a stock client asks before it streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A setting's value.
    Show(String),
    /// Where a Postgres timeline comes from.
    TimelineHistory(PostgresTimeline),
    /// A slot's position.
    ReadSlot(String),
    /// A new slot.
    CreateSlot {
        /// Its name.
        name: String,
        /// Whether it ends with its connection.
        temporary: bool,
    },
    /// That a slot be forgotten.
    DropSlot(String),
}

/// Understands a [`Question`].
pub(super) fn parse_question(text: &str) -> Result<Question, CommandError> {
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut words = Words(rest);
    let (name, question) = match name {
        "SHOW" => ("SHOW", words.setting().map(Question::Show)),
        "TIMELINE_HISTORY" => ("TIMELINE_HISTORY", words.timeline().map(Question::TimelineHistory)),
        "READ_REPLICATION_SLOT" => {
            ("READ_REPLICATION_SLOT", words.slot_name().map(Question::ReadSlot))
        }
        "CREATE_REPLICATION_SLOT" => ("CREATE_REPLICATION_SLOT", parse_create_slot(&mut words)?),
        "DROP_REPLICATION_SLOT" => {
            ("DROP_REPLICATION_SLOT", words.slot_name().map(Question::DropSlot))
        }
        _ => return Err(CommandError::Unsupported(echo(text))),
    };
    question.ok_or_else(|| CommandError::Malformed { name, text: echo(text) })
}

/// `name [TEMPORARY] PHYSICAL [RESERVE_WAL | ( RESERVE_WAL )]`.
fn parse_create_slot(words: &mut Words<'_>) -> Result<Option<Question>, CommandError> {
    let Some(name) = words.slot_name() else { return Ok(None) };
    let mut word = words.next();
    let temporary = word == Some(Word::Plain("TEMPORARY"));
    if temporary {
        word = words.next();
    }
    match word {
        Some(Word::Plain("PHYSICAL")) => Ok(Some(Question::CreateSlot { name, temporary })),
        Some(Word::Plain("LOGICAL")) => Err(CommandError::LogicalSlot),
        _ => Ok(None),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word<'a> {
    /// Letters, digits, `_`, `.`, `/`.
    Plain(&'a str),
    /// Between double quotes.
    Quoted(&'a str),
    /// Between single quotes.
    Text(&'a str),
    Symbol(char),
}

impl<'a> Word<'a> {
    fn plain(self) -> Option<&'a str> {
        match self {
            Word::Plain(text) => Some(text),
            _ => None,
        }
    }
}

/// Takes a command apart from its front.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<Word<'a>> {
        let text = self.0.trim_start();
        let first = text.chars().next()?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/');
        let (word, length_bytes) = match first {
            '"' | '\'' => {
                let inside = text[1..].split_once(first)?.0;
                let word = if first == '"' { Word::Quoted(inside) } else { Word::Text(inside) };
                (word, inside.len() + 2)
            }
            _ if is_plain(first) => {
                let end = text.find(|c| !is_plain(c)).unwrap_or(text.len());
                (Word::Plain(&text[..end]), end)
            }
            _ => (Word::Symbol(first), first.len_utf8()),
        };
        self.0 = &text[length_bytes..];
        Some(word)
    }

    /// Lower-case letters, digits and `_` only, as Postgres has it.
    fn slot_name(&mut self) -> Option<String> {
        let (Word::Plain(name) | Word::Quoted(name)) = self.next()? else { return None };
        let right = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let fits = (1..=SLOT_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(right);
        fits.then(|| name.to_string())
    }

    /// Settings are named in any case.
    fn setting(&mut self) -> Option<String> {
        Some(self.next()?.plain()?.to_ascii_lowercase())
    }

    fn timeline(&mut self) -> Option<PostgresTimeline> {
        let number = self.next()?.plain()?.parse().ok().filter(|number| *number > 0)?;
        Some(PostgresTimeline(number))
    }
}

#[cfg(test)]
mod tests;
