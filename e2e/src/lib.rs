//! Scenarios on the real kernel: namespaces as pods and nodes, the real agent and CNI chain.
//!
//! A [`lab::Lab`] is two nodes, `master` and `worker`, joined by a wire; a [`pod::Pod`] is a network namespace that a
//! real chain of CNI plugins connected; an [`agent::Agent`] is the real agent on the worker. Everything a lab makes
//! carries the lab's prefix and is removed by that name when the lab is dropped, also by a panic. An
//! [`apiserver::ApiServer`] is a real API server with its store.
//!
//! A [`cluster::Cluster`] is Kubernetes itself: real kubelets, containerd and flannel's plugin.
//!
//! Nothing here sleeps to let something happen: [`wait::until`] asks until an answer or a deadline, and that a packet did
//! *not* arrive is known when one that was sent after it did ([`wire`]).

pub mod agent;
pub mod apiserver;
pub mod cgroup;
pub mod cluster;
pub mod cni;
pub mod dump;
pub mod fingerprint;
pub mod helm;
pub mod lab;
pub mod manifest;
pub mod netns;
pub mod packet;
pub mod pod;
pub mod probe;
pub mod process;
pub mod require;
pub mod scenario;
pub mod scrape;
pub mod server;
pub mod service;
pub mod tables;
pub mod tamper;
pub mod trace;
pub mod traffic;
pub mod wait;
pub mod wire;
