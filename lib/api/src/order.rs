//! Printing of `order`: whole numbers without a point, as Go prints them.

use serde::Serializer;

/// The largest number up to which a float holds every whole number.
const EXACT: f64 = 9_007_199_254_740_992.0;

pub(crate) fn serialize<S: Serializer>(order: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match order {
        #[allow(clippy::cast_possible_truncation)] // it is whole, and within what an i64 holds
        Some(order) if order.fract() == 0.0 && order.abs() < EXACT => serializer.serialize_i64(*order as i64),
        Some(order) => serializer.serialize_f64(*order),
        None => serializer.serialize_none(),
    }
}
