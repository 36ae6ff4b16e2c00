//! Messages between threads: bounded mailboxes and one-shot answers. Any thread sends, one task receives.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use thiserror::Error;

/// Makes a mailbox for at most `capacity` waiting messages.
pub fn mailbox<T: Send + 'static>(capacity: usize) -> (MailboxSender<T>, Mailbox<T>) {
    let (sender, receiver) = flume::bounded(capacity);
    (MailboxSender(sender), Mailbox(receiver))
}

/// Makes the two ends of a single answer.
pub fn oneshot<T: Send + 'static>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let (sender, receiver) = flume::bounded(1);
    (OneshotSender(sender), OneshotReceiver(receiver.into_recv_async()))
}

/// The other end is gone; the message comes back where there was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the other end of the channel is gone")]
pub struct Disconnected;

/// Why a message was not taken at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TrySendError<T> {
    /// As many messages wait as the mailbox takes.
    #[error("the mailbox is full")]
    Full(T),
    /// The receiver is gone.
    #[error("the mailbox is gone")]
    Disconnected(T),
}

/// The sending end of a mailbox, for any thread.
#[derive(Debug)]
pub struct MailboxSender<T>(flume::Sender<T>);

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static> MailboxSender<T> {
    /// Sends, after waiting for room if the mailbox is full.
    ///
    /// # Errors
    /// If the receiver is gone.
    pub async fn send(&self, message: T) -> Result<(), Disconnected> {
        self.0.send_async(message).await.map_err(|_| Disconnected)
    }

    /// Sends if there is room.
    ///
    /// # Errors
    /// With the message, if there is none or the receiver is gone.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.0.try_send(message).map_err(|error| match error {
            flume::TrySendError::Full(message) => TrySendError::Full(message),
            flume::TrySendError::Disconnected(message) => TrySendError::Disconnected(message),
        })
    }
}

/// The receiving end of a mailbox.
#[derive(Debug)]
pub struct Mailbox<T>(flume::Receiver<T>);

impl<T: Send + 'static> Mailbox<T> {
    /// The next message; `None` when all senders are gone and nothing waits. Dropping the future loses no message.
    pub async fn recv(&mut self) -> Option<T> {
        self.0.recv_async().await.ok()
    }

    /// The next message if one waits.
    pub fn try_recv(&mut self) -> Option<T> {
        self.0.try_recv().ok()
    }
}

/// The sending end of a single answer, for any thread.
#[derive(Debug)]
pub struct OneshotSender<T>(flume::Sender<T>);

impl<T: Send + 'static> OneshotSender<T> {
    /// Answers; the value comes back if nobody waits for it any more.
    ///
    /// # Errors
    /// With the value, if the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        self.0.send(value).map_err(|error| error.0)
    }
}

/// The receiving end of a single answer: a future of the value, or of [`Disconnected`].
pub struct OneshotReceiver<T: 'static>(flume::r#async::RecvFut<'static, T>);

impl<T: Send + 'static> Future for OneshotReceiver<T> {
    type Output = Result<T, Disconnected>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| Disconnected)
    }
}
