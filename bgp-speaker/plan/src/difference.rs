//! What would changed resources do to the sessions: add, keep, reset, remove?
