//! The two inputs that the agent is driven between.

use std::net::IpAddr;

use oxilium_e2e::{pod::Pod, scenario::policy, service::ServiceObject};

/// The two inputs that the agent is driven between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Input {
    /// The changeling is a friend and serves beside the subject, and the guest is there.
    Open,
    /// The changeling is a stranger, prefixes and ports are allowed and another is denied, strangers may not speak, the
    /// guest is gone, and the subject serves alone, by TCP too.
    Closed,
}

impl Input {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Open => Self::Closed,
            Self::Closed => Self::Open,
        }
    }

    pub(crate) fn changeling(self) -> &'static str {
        match self {
            Self::Open => "friend",
            Self::Closed => "stranger",
        }
    }

    pub(crate) fn web(self) -> String {
        let friends = "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n";
        let more = "    - fromCIDR: [192.0.2.0/24, 198.51.100.7/32, \"2001:db8::/32\"]\n      \
                    toPorts:\n        - ports: [{port: \"8000\", endPort: 8100, protocol: TCP}]\n    \
                    - fromEndpoints:\n        - matchLabels: {app: ghost}\n      \
                    toPorts:\n        - ports: [{port: \"53\", protocol: UDP}]\n";
        let far = "    - fromCIDR: [203.0.113.0/25]\n      \
                   toPorts:\n        - ports: [{port: \"22\", protocol: TCP}, {port: \"179\", protocol: TCP}]\n";
        match self {
            Self::Open => policy("web", &format!("{friends}{far}")),
            Self::Closed => policy("web", &format!("{friends}{more}  ingressDeny:\n{far}")),
        }
    }

    /// What strangers may say, where there is a word of it.
    pub(crate) fn strangers(self) -> String {
        let whom = match self {
            Self::Open => "app: nobody",
            Self::Closed => "app: stranger",
        };
        let text = policy("strangers", "  egress:\n    - toCIDR: [203.0.113.0/24]\n");
        text.replace("app: subject", whom)
    }

    /// The service that there is traffic to. One of its backends is there under either input.
    pub(crate) fn busy(self, subject: &Pod, changeling: &Pod) -> ServiceObject {
        let (protocols, backends) = match self {
            Self::Open => (vec!["UDP"], vec![subject, changeling]),
            Self::Closed => (vec!["UDP", "TCP"], vec![subject]),
        };
        service(
            "busy",
            ["10.96.0.80", "fd00:10:96::80"],
            protocols,
            SERVED,
            &backends,
        )
    }

    /// A service that nobody asks.
    pub(crate) fn idle(self, subject: &Pod, friend: &Pod) -> ServiceObject {
        let target = match self {
            Self::Open => 5353,
            Self::Closed => 5354,
        };
        service(
            "idle",
            ["10.96.0.53", "fd00:10:96::53"],
            vec!["UDP"],
            target,
            &[subject, friend],
        )
    }
}

/// Where the backends of the service are asked that there is traffic to.
pub(crate) const SERVED: u16 = 7005;

fn service(
    name: &str,
    addresses: [&str; 2],
    protocols: Vec<&'static str>,
    target_port: u16,
    backends: &[&Pod],
) -> ServiceObject {
    let both = |pod: &&Pod| [IpAddr::from(pod.ipv4), IpAddr::from(pod.ipv6)];
    ServiceObject {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        addresses: addresses.map(|address| address.parse().unwrap()),
        port: 80,
        target_port,
        protocols,
        backends: backends.iter().flat_map(both).collect(),
    }
}
