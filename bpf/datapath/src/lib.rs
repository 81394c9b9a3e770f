//! Packet decisions: parse, source checks, conntrack, policy; no I/O.
#![no_std]
