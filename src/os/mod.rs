//! The only room with `unsafe` or raw system calls: the SQLCipher provider, processes and namespaces,
//! seccomp and landlock. Each file wraps one kind of call in a safe function and says why it is sound.

pub mod sqlcipher;
