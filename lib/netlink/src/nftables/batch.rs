//! How are changes written that are made all or none?

use super::expression::encode;
use super::object::{Base, Element, Rule, Set, Table, successor};
use super::wire::{chain, expression, kind, rule, set, user_data};
use super::{BORDER, header, wire};
use crate::message::Request;

/// An attribute's length has 16 bits: so many elements of the longest kind fit one message.
const CHUNK: usize = 100;

/// Changes to tables that are made together, in their order, or not at all. Nobody sees, and no packet meets, a part of
/// them.
#[derive(Debug, Default)]
pub struct Batch {
    /// Each with what it is, for the error.
    pub(super) requests: Vec<(Request, String)>,
    sets: u32,
}

impl Batch {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is no change in it.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// How many messages it is.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    fn push(&mut self, kind: u16, flags: i32, table: &Table, asked: String, content: impl FnOnce(&mut Request)) {
        let mut request = Request::new(kind, flags, &header(table.family));
        request.text(wire::TABLE, &table.name);
        content(&mut request);
        self.requests.push((request, asked));
    }

    /// Makes a table if it is not there.
    pub fn add_table(&mut self, table: &Table) {
        self.push(kind::NEW_TABLE, libc::NLM_F_CREATE, table, format!("add table {table}"), |_| {});
    }

    /// Deletes a table with all that is in it.
    pub fn delete_table(&mut self, table: &Table) {
        self.push(kind::DELETE_TABLE, 0, table, format!("delete table {table}"), |_| {});
    }

    /// Makes a chain if it is not there; with `base`, one that the kernel calls.
    pub fn add_chain(&mut self, table: &Table, name: &str, base: Option<Base>) {
        let asked = format!("add chain {name} to table {table}");
        self.push(kind::NEW_CHAIN, libc::NLM_F_CREATE, table, asked, |request| {
            request.text(chain::NAME, name);
            if let Some(base) = base {
                request.nest(chain::HOOK, |request| {
                    request.wide(chain::HOOK_NUMBER, base.hook as u32);
                    request.wide(chain::HOOK_PRIORITY, base.priority as u32);
                });
                request.wide(chain::POLICY, u32::from(!base.drop));
                request.text(chain::TYPE, base.kind.as_str());
            }
        });
    }

    /// Deletes a chain that has no rules and to which none leads.
    pub fn delete_chain(&mut self, table: &Table, name: &str) {
        let asked = format!("delete chain {name} of table {table}");
        self.push(kind::DELETE_CHAIN, 0, table, asked, |request| request.text(chain::NAME, name));
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: &Table, name: &str) {
        let asked = format!("delete the rules of chain {name} of table {table}");
        self.push(kind::DELETE_RULE, 0, table, asked, |request| request.text(rule::CHAIN, name));
    }

    /// Adds a rule at a chain's end, or before the rule of a handle.
    pub fn add_rule(&mut self, table: &Table, chain: &str, new: &Rule, before: Option<u64>) {
        let asked = format!("add rule {} to chain {chain} of table {table}", new.comment);
        let flags = libc::NLM_F_CREATE | if before.is_some() { 0 } else { libc::NLM_F_APPEND };
        self.push(kind::NEW_RULE, flags, table, asked, |request| {
            request.text(rule::CHAIN, chain);
            encode(&new.expressions, request, rule::EXPRESSIONS);
            if let Some(handle) = before {
                request.handle(rule::POSITION, handle);
            }
            let comment = [new.comment.as_bytes(), &[0]].concat();
            request.attribute(rule::USER_DATA, &user_data(rule::COMMENT, &comment));
        });
    }

    /// Deletes the rule of a handle.
    pub fn delete_rule(&mut self, table: &Table, chain: &str, handle: u64) {
        let asked = format!("delete rule {handle} of chain {chain} of table {table}");
        self.push(kind::DELETE_RULE, 0, table, asked, |request| {
            request.text(rule::CHAIN, chain);
            request.handle(rule::HANDLE, handle);
        });
    }

    /// Makes a set or map if it is not there.
    pub fn add_set(&mut self, table: &Table, new: &Set) {
        self.sets += 1;
        let (id, shape) = (self.sets, new.shape());
        let asked = format!("add set {} to table {table}", new.name);
        self.push(kind::NEW_SET, libc::NLM_F_CREATE, table, asked, |request| {
            request.text(set::NAME, &new.name);
            request.wide(set::FLAGS, shape.flags);
            request.wide(set::KEY_TYPE, shape.key_type);
            request.wide(set::KEY_LENGTH, shape.key_length);
            if new.verdicts {
                request.wide(set::DATA_TYPE, shape.data_type);
                // The kernel wants a number here that it then ignores.
                request.wide(set::DATA_LENGTH, 16);
            }
            request.wide(set::ID, id);
            if shape.flags & set::CONCATENATED != 0 {
                request.nest(set::DESCRIPTION, |request| {
                    request.nest(set::DESCRIPTION_FIELDS, |request| {
                        for length in new.fields() {
                            request.nest(wire::ITEM, |request| request.wide(set::FIELD_LENGTH, length));
                        }
                    });
                });
            }
            request.attribute(set::USER_DATA, &user_data(set::KEY_ORDER, &new.key_order().to_ne_bytes()));
        });
    }

    /// Deletes a set or map that no rule uses.
    pub fn delete_set(&mut self, table: &Table, name: &str) {
        let asked = format!("delete set {name} of table {table}");
        self.push(kind::DELETE_SET, 0, table, asked, |request| request.text(set::NAME, name));
    }

    /// Adds elements, in messages of many.
    pub fn add_elements<'a>(&mut self, table: &Table, of: &Set, elements: impl IntoIterator<Item = &'a Element>) {
        self.elements(kind::NEW_ELEMENTS, libc::NLM_F_CREATE, "add elements to", table, of, elements);
    }

    /// Deletes elements, in messages of many.
    pub fn delete_elements<'a>(&mut self, table: &Table, of: &Set, elements: impl IntoIterator<Item = &'a Element>) {
        self.elements(kind::DELETE_ELEMENTS, 0, "delete elements of", table, of, elements);
    }

    fn elements<'a>(
        &mut self,
        kind: u16,
        flags: i32,
        verb: &str,
        table: &Table,
        of: &Set,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let shape = of.shape();
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let asked = format!("{verb} set {} of table {table}", of.name);
            let chunk = elements.by_ref().take(CHUNK);
            self.push(kind, flags, table, asked, |request| {
                request.text(set::NAME, &of.name);
                request.nest(set::ELEMENTS, |request| {
                    for element in chunk {
                        write_element(request, element, shape.has_ends());
                    }
                });
            });
        }
    }
}

fn write_element(request: &mut Request, element: &Element, has_ends: bool) {
    let key = |request: &mut Request, kind: u16, octets: &[u8]| {
        request.nest(kind, |request| request.attribute(expression::VALUE, octets));
    };
    request.nest(wire::ITEM, |request| {
        key(request, set::ELEMENT_KEY, &element.first);
        if let Some(last) = element.last.as_ref().filter(|_| !has_ends) {
            key(request, set::ELEMENT_KEY_END, last);
        }
        if let Some(verdict) = &element.verdict {
            verdict.encode(request, set::ELEMENT_DATA);
        }
    });
    if !has_ends {
        return;
    }
    // An interval to the end of all keys has no end.
    if let Some(end) = successor(element.last.as_ref().unwrap_or(&element.first)) {
        request.nest(wire::ITEM, |request| {
            key(request, set::ELEMENT_KEY, &end);
            request.wide(set::ELEMENT_FLAGS, set::INTERVAL_END);
        });
    }
}

/// What stands before and after the changes.
pub(super) fn border(kind: u16) -> Request {
    Request::new(kind, 0, &BORDER)
}
