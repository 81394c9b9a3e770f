//! Sources, the reconcile loop, publishing and the API socket.
