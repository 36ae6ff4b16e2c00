//! A recorded connection as whole protocol messages, in the order in which they were complete.

use anyhow::{Context, Result, ensure};
use firn_core::wire::postgres::message;
use firn_core::wire::postgres::startup::{self, StartupPacket, StartupParameters};

use super::{RecordKind, Recording};

/// Who sent a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The one who connected.
    Client,
    /// The one who accepted.
    Server,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub sender: Sender,
    /// Its tag.
    pub tag: u8,
    /// What comes behind its length.
    pub payload: Vec<u8>,
}

/// A connection after its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// What the client said of itself; `None` when its startup message was refused or never came.
    pub parameters: Option<StartupParameters>,
    /// Everything from then on.
    pub messages: Vec<Message>,
}

#[derive(Default)]
struct Direction {
    bytes: Vec<u8>,
    used: usize,
}

impl Direction {
    fn unused(&self) -> &[u8] {
        &self.bytes[self.used..]
    }
}

impl Recording {
    /// Takes the recorded bytes apart. Fails on bytes that are no messages.
    pub fn conversation(&self) -> Result<Conversation> {
        let (mut client, mut server) = (Direction::default(), Direction::default());
        let mut conversation = Conversation { parameters: None, messages: Vec::new() };
        let mut refusals_expected = 0;
        for record in &self.records {
            match record.kind {
                RecordKind::ClientBytes => {
                    client.bytes.extend_from_slice(&record.bytes);
                    while conversation.parameters.is_none() {
                        // Ids that are none are refused by whoever reads the startup message.
                        let Ok(packet) = startup::decode(client.unused()) else {
                            return Ok(conversation);
                        };
                        let Some((packet, length)) = packet else { break };
                        client.used += length;
                        match packet {
                            StartupPacket::Startup(found) => conversation.parameters = Some(found),
                            StartupPacket::CancelRequest => {}
                            _ => refusals_expected += 1,
                        }
                    }
                    if conversation.parameters.is_some() {
                        drain(&mut client, Sender::Client, &mut conversation.messages)?;
                    }
                }
                RecordKind::ServerBytes => {
                    server.bytes.extend_from_slice(&record.bytes);
                    while refusals_expected > 0 && !server.unused().is_empty() {
                        ensure!(server.unused()[0] == b'N', "encryption is refused by N");
                        server.used += 1;
                        refusals_expected -= 1;
                    }
                    drain(&mut server, Sender::Server, &mut conversation.messages)?;
                }
                RecordKind::ClientClosed | RecordKind::ServerClosed => {}
            }
        }
        for direction in [client, server] {
            let left = direction.unused().len();
            ensure!(left == 0, "{left} bytes left behind the last message");
        }
        Ok(conversation)
    }
}

impl Conversation {
    /// The first query, empty when there is none.
    pub fn first_query(&self) -> &str {
        let query = self.messages.iter().find(|message| message.tag == b'Q');
        query.map_or("", |query| {
            std::str::from_utf8(&query.payload).unwrap_or("").trim_end_matches('\0')
        })
    }
}

fn drain(direction: &mut Direction, sender: Sender, messages: &mut Vec<Message>) -> Result<()> {
    while let Some((found, length)) =
        message::decode(direction.unused()).with_context(|| format!("a message of {sender:?}"))?
    {
        messages.push(Message { sender, tag: found.tag, payload: found.payload.to_vec() });
        direction.used += length;
    }
    Ok(())
}
