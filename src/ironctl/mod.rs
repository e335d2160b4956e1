//! The admin command line.
