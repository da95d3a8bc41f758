//! What is measured, as it is shown and as it is documented.

mod openmetrics;
mod page;
