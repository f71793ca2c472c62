//! What the loop keeps per slice, found by channel and number.
//!
//! Fixed size: the session lets at most `SEQ_SPAN` numbers of a channel be open, so the number
//! modulo that is a place of its own.

use dwcp_wire::{Channel, SEQ_SPAN, SEQUENCED_CHANNELS};

/// A slice's identity within one direction.
pub(crate) type Key = (Channel, u64);

/// One place per open number, with the number that holds it.
type Lane<T> = Box<[Option<(u64, T)>]>;

pub(crate) struct Table<T> {
    lanes: [Lane<T>; SEQUENCED_CHANNELS],
}

fn place(seq: u64) -> usize {
    (seq % SEQ_SPAN) as usize
}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Self { lanes: std::array::from_fn(|_| (0..SEQ_SPAN).map(|_| None).collect()) }
    }

    /// # Panics
    /// When the place is taken: the session opens no number before its predecessor is done.
    pub(crate) fn insert(&mut self, (channel, seq): Key, value: T) {
        let index = channel.index().expect("a numbered channel");
        let place = &mut self.lanes[index][place(seq)];
        assert!(place.is_none(), "{channel:?} {seq} finds its place taken");
        *place = Some((seq, value));
    }

    /// Whether [`Self::insert`] would find the place of this slice taken.
    pub(crate) fn is_taken(&self, (channel, seq): Key) -> bool {
        channel.index().is_some_and(|index| self.lanes[index][place(seq)].is_some())
    }

    pub(crate) fn get_mut(&mut self, (channel, seq): Key) -> Option<&mut T> {
        let (known, value) = self.lanes[channel.index()?][place(seq)].as_mut()?;
        (*known == seq).then_some(value)
    }

    pub(crate) fn remove(&mut self, (channel, seq): Key) -> Option<T> {
        let place = &mut self.lanes[channel.index()?][place(seq)];
        if place.as_ref()?.0 != seq {
            return None;
        }
        place.take().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_share_a_place_are_told_apart() {
        let mut table = Table::new();
        let (first, later) = ((Channel::Pages, 5), (Channel::Pages, 5 + SEQ_SPAN));
        table.insert(first, 'a');
        assert_eq!(table.get_mut(later), None);
        assert_eq!(table.remove(later), None);
        assert_eq!(table.remove((Channel::Skeleton, 5)), None);
        assert_eq!(table.remove(first), Some('a'));
        table.insert(later, 'b');
        assert_eq!(table.get_mut(later), Some(&mut 'b'));
        assert_eq!(table.get_mut((Channel::Link, 5)), None);
    }
}
