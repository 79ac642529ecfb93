//! What all checks ask of the node, whoever they are about.

use std::sync::Arc;

use arc_swap::Guard;

use super::super::book::Book;
use super::super::{Inner, Phase};

/// What is read once for all checks that are judged together: to read it for each would make threads wait for each other.
pub(super) struct Glance {
    /// The rules in force.
    pub(super) book: Guard<Arc<Book>>,
    /// Whether calls are answered.
    pub(super) serving: bool,
}

impl Glance {
    pub(super) fn at(inner: &Inner) -> Self {
        Self { book: inner.book.load(), serving: *inner.phase.borrow() == Phase::Serving }
    }
}
