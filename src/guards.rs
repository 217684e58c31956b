//! The rules without which the simulation must find a revoked token let in, or a good one
//! refused. Only its tests can switch one off, to see that it is needed.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A grant counts only while its epoch stands.
    Epochs,
    /// A row gives way only to a newer one of its credential.
    Versions,
    /// What was removed leaves a grave, so that no late listing brings it back.
    Graves,
    /// A listing removes nothing that is newer than its beginning.
    Floor,
    /// A store must know what is held of it.
    Lineage,
    /// A silent replica is waited for until it refuses by itself.
    Leases,
    /// A report makes the table fresh once the head that answered it is applied.
    Heads,
    /// What would come back to life is known once all have compared what they hold with the store.
    Comparisons,
}

#[cfg(not(test))]
pub const fn off(_: Guard) -> bool {
    false
}

#[cfg(test)]
pub fn off(guard: Guard) -> bool {
    OFF.get() == Some(guard)
}

#[cfg(test)]
pub fn switch_off(guard: Option<Guard>) {
    OFF.set(guard);
}

#[cfg(test)]
thread_local! {
    static OFF: std::cell::Cell<Option<Guard>> = const { std::cell::Cell::new(None) };
}
