//! Tests of the server as a program, over real sockets and with real clients.

mod python;
