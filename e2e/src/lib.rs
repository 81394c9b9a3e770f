//! Scenarios on the real kernel: namespaces as pods and nodes, the real agent and CNI chain.
