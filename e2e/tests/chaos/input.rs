//! The two inputs that the agent is driven between.

use oxilium_e2e::scenario::policy;

/// The two inputs that the agent is driven between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Input {
    /// The changeling is a friend, and the guest is there.
    Open,
    /// The changeling is a stranger, prefixes and ports are allowed, strangers may not speak, the guest is gone.
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
        match self {
            Self::Open => policy("web", friends),
            Self::Closed => policy("web", &format!("{friends}{more}")),
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
}
