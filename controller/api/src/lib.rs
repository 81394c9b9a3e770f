//! What the agent, the CLI and the CNI plugin say to each other over the unix socket.
