//! The JSON gate: the one strict decoder that reads everything crossing a trust boundary, and the one
//! writer that answers. It takes bytes and gives a [`Value`], or an error with the byte offset and a
//! sentence. It accepts exactly RFC 8259 in UTF-8, within [`Limits`], and refuses duplicate keys. The derive
//! macros of `nanoserde` run only on text that has passed it ([`decode`]). It touches nothing but memory.

mod canonical;
mod decode;
mod error;
mod parse;
mod text;
mod value;
mod write;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod fuzz;

pub use canonical::canonical;
pub use decode::{decode, encode};
pub use error::{JsonError, Problem};
pub use parse::{Limits, parse, parse_within};
pub use text::ObjectText;
pub use value::{Value, only_fields};
pub use write::write_string;
