//! What moves frames between machines.
//!
//! A carrier connects, keeps frames of one link in order, and ends the link when it cannot. It knows nothing of what it carries. Two kinds
//! are meant:
//!
//! - **Streams between peers** (gRPC). A link is one stream. What was lost with a link is asked for anew by the vector, which both sides
//!   tell in their Hello: nothing need be remembered, so [`Incoming::Frame::cursor`] is `None`.
//! - **A log in between** (JetStream). A link is one peer's subject, and a frame has a place in it that outlives the process. The carrier gives that
//!   place as a [`Cursor`]; once the frame is dealt with, on disk where it held records, it comes back by [`Carrier::settle`], and after a
//!   restart the carrier reads on from there. A frame that comes again does no harm.

use super::frame::Frame;

/// The longest cursor, in bytes.
pub const CURSOR_LEN_MAX: usize = 64;

/// One connection, numbered by the carrier and never numbered so again in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// A place in a carrier's own log, meaningless to all others: at most [`CURSOR_LEN_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Vec<u8>);

/// What a carrier has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A link stands.
    Connected {
        /// Its number.
        link: Link,
        /// This side dialled.
        dialled: bool,
    },
    /// A frame came.
    Frame {
        /// By this link.
        link: Link,
        /// What it says.
        frame: Frame,
        /// Its length on the wire, in bytes.
        len: usize,
        /// Its place, where the carrier has lasting ones.
        cursor: Option<Cursor>,
    },
    /// The oldest frame that was handed over by [`Carrier::send`] has left, so there is room for another.
    Sent {
        /// By this link.
        link: Link,
    },
    /// The link is gone. No more is heard of it.
    Disconnected {
        /// Which.
        link: Link,
        /// Why, for a log; no address of a person.
        why: String,
    },
}

/// Moves frames.
pub trait Carrier {
    /// Hands a frame over. It never waits: the machine hands over no more than [`super::Settings::queue_frames`] before it hears
    /// [`Incoming::Sent`]. For a link that is gone, it does nothing.
    fn send(&mut self, link: Link, frame: Frame);

    /// Ends a link once what was handed over has left, or soon after if the peer does not read. [`Incoming::Disconnected`] may or may not follow.
    fn close(&mut self, link: Link);

    /// Everything up to `cursor` is dealt with. Carriers without lasting places have nothing to do.
    fn settle(&mut self, link: Link, cursor: Cursor) {
        let _ = (link, cursor);
    }

    /// The next thing to tell, if there is one now.
    fn next(&mut self) -> Option<Incoming>;
}
