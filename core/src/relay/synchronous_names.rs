//! Whether commits wait for the relay: `synchronous_standby_names` and who else could satisfy it
//! (PostgreSQL documentation, "synchronous_standby_names").

use thiserror::Error;

/// A value that Postgres would not have taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("synchronous_standby_names {0:?} is not understood")]
pub struct SynchronousNamesError(String);

/// The setting, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynchronousNames {
    /// How many of the listed standbys a commit waits for.
    pub count: usize,
    /// Listed names; `*` stands for every name.
    pub names: Vec<String>,
}

/// Why commits may return without the quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weakness {
    /// `synchronous_standby_names` is empty.
    Unset,
    /// It does not name the relay.
    NotNamed,
    /// It can be satisfied by standbys with these names alone.
    OthersListed(Vec<String>),
    /// A standby that is connected now counts as well.
    OtherConnected(String),
    /// `synchronous_commit` does not wait for a flush elsewhere.
    CommitSetting(String),
}

impl std::fmt::Display for Weakness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Weakness::Unset => f.write_str(
                "synchronous_standby_names is empty: commits do not wait for the quorum",
            ),
            Weakness::NotNamed => f.write_str(
                "synchronous_standby_names does not name the relay: commits do not wait for the quorum",
            ),
            Weakness::OthersListed(names) => write!(
                f,
                "synchronous_standby_names can be satisfied without the relay, by {}: name the relay alone, or raise the count",
                names.join(", ")
            ),
            Weakness::OtherConnected(name) => write!(
                f,
                "another standby is connected as {name:?} and satisfies synchronous_standby_names: commits may return without the quorum"
            ),
            Weakness::CommitSetting(value) => write!(
                f,
                "synchronous_commit is {value}: commits return before the quorum has flushed them"
            ),
        }
    }
}

impl SynchronousNames {
    /// Parses the setting. `None` when it is empty.
    pub fn parse(text: &str) -> Result<Option<SynchronousNames>, SynchronousNamesError> {
        let error = || SynchronousNamesError(text.to_string());
        let tokens = tokens(text).ok_or_else(error)?;
        let is_word = |token: &Token, word: &str| matches!(token, Token::Plain(plain) if plain.eq_ignore_ascii_case(word));
        let rest = match tokens.as_slice() {
            [] => return Ok(None),
            [method, rest @ ..]
                if rest.len() > 2 && (is_word(method, "first") || is_word(method, "any")) =>
            {
                rest
            }
            all => all,
        };
        let (count, list) = match rest {
            [Token::Plain(count), Token::Open, list @ .., Token::Close] => {
                (count.parse().ok().filter(|count| *count > 0).ok_or_else(error)?, list)
            }
            list => (1, list),
        };
        let mut names = Vec::new();
        for (index, token) in list.iter().enumerate() {
            match token {
                Token::Comma if index % 2 == 1 => {}
                Token::Plain(name) | Token::Quoted(name) if index % 2 == 0 => {
                    names.push(name.clone());
                }
                _ => return Err(error()),
            }
        }
        if list.len() % 2 == 0 {
            return Err(error());
        }
        Ok(Some(SynchronousNames { count, names }))
    }

    /// Whether a standby of this name counts. Postgres compares without regard to case.
    pub fn counts(&self, name: &str) -> bool {
        self.names.iter().any(|listed| listed == "*" || listed.eq_ignore_ascii_case(name))
    }

    /// Why commits may return without the relay named `relay`, given the other standbys that are connected.
    pub fn weaknesses(&self, relay: &str, others: &[String]) -> Vec<Weakness> {
        if !self.counts(relay) {
            return vec![Weakness::NotNamed];
        }
        let mut found = Vec::new();
        let mut listed: Vec<String> =
            self.names.iter().filter(|name| !name.eq_ignore_ascii_case(relay)).cloned().collect();
        listed.dedup();
        if listed.iter().any(|name| name == "*") || listed.len() >= self.count {
            found.push(Weakness::OthersListed(listed));
        }
        let counting: Vec<&String> = others.iter().filter(|name| self.counts(name)).collect();
        if counting.len() >= self.count {
            found.extend(counting.into_iter().cloned().map(Weakness::OtherConnected));
        }
        found
    }
}

/// Everything that is weak in a primary's settings.
pub fn check(
    standby_names: &str,
    synchronous_commit: &str,
    relay: &str,
    others: &[String],
) -> Result<Vec<Weakness>, SynchronousNamesError> {
    let mut found = match SynchronousNames::parse(standby_names)? {
        None => vec![Weakness::Unset],
        Some(names) => names.weaknesses(relay, others),
    };
    // `remote_write` waits for the flush too: a relay reports what is written only once a quorum has flushed it.
    if !matches!(synchronous_commit, "on" | "remote_apply" | "remote_write") {
        found.push(Weakness::CommitSetting(synchronous_commit.to_string()));
    }
    Ok(found)
}

#[derive(Debug)]
enum Token {
    Plain(String),
    Quoted(String),
    Open,
    Close,
    Comma,
}

/// `None` when a quote does not end.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let single = match first {
            '(' => Some(Token::Open),
            ')' => Some(Token::Close),
            ',' => Some(Token::Comma),
            _ => None,
        };
        if let Some(token) = single {
            tokens.push(token);
            rest = rest[1..].trim_start();
            continue;
        }
        if first == '"' {
            let (name, after) = quoted(&rest[1..])?;
            tokens.push(Token::Quoted(name));
            rest = after.trim_start();
            continue;
        }
        let ends = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | '"');
        let (word, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        tokens.push(Token::Plain(word.to_string()));
        rest = after.trim_start();
    }
    Some(tokens)
}

/// Text up to a closing quote, `""` standing for one quote; and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if character != '"' {
            name.push(character);
        } else if characters.next_if(|(_, next)| *next == '"').is_some() {
            name.push('"');
        } else {
            return Some((name, &text[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests;
