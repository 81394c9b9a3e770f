//! Packing round trips: what one side writes, the other reads.

use oxilium_abi::{
    AuthRequirement, Be16, CtWord, Direction, EPOCH_MAX, EndpointWord, Epoch, IpcacheValue,
    IpcacheWord, PolicyKey, PolicyValue, Precedence, ShapeMask, ShapeWord, endpoint_word_index,
};

#[test]
fn endpoint_word_keeps_table_and_epoch_apart() {
    for (table, epoch) in [
        (0, 0),
        (1, EPOCH_MAX),
        (0x00FF_FFFF, 0),
        (0x00FF_FFFF, EPOCH_MAX),
    ] {
        let word = EndpointWord::new(table, Epoch::new(epoch));
        assert_eq!((word.table(), word.epoch().get()), (table, epoch));
    }
}

#[test]
fn the_last_epoch_has_no_next() {
    assert_eq!(Epoch::new(EPOCH_MAX).next(), None);
    assert_eq!(Epoch::ZERO.next(), Some(Epoch::new(1)));
}

#[test]
fn ipcache_word_keeps_bank_and_epoch_apart() {
    for bank in [0, 1] {
        let word = IpcacheWord::new(bank, Epoch::new(EPOCH_MAX));
        assert_eq!((word.bank(), word.epoch().get()), (bank, EPOCH_MAX));
    }
}

#[test]
fn banks_of_an_endpoint_do_not_overlap_its_neighbours() {
    let mut seen = std::collections::BTreeSet::new();
    for endpoint in [0, 1, 2, u16::MAX - 1, u16::MAX] {
        for bank in [0, 1] {
            assert!(seen.insert(endpoint_word_index(endpoint, bank)));
        }
    }
}

#[test]
fn ipcache_value_replaces_one_bank_and_keeps_the_other() {
    let value = IpcacheValue::level(u32::MAX).with_identity(1, 7);
    assert_eq!((value.identity(0), value.identity(1)), (u32::MAX, 7));
    let value = value.with_identity(0, 9);
    assert_eq!((value.identity(0), value.identity(1)), (9, 7));
}

#[test]
fn conntrack_word_keeps_its_four_parts_apart() {
    for direction in [Direction::Ingress, Direction::Egress] {
        for allowed in [false, true] {
            for (stamp, tag) in [(0, 0), (EPOCH_MAX, 0), (0, 0xF_FFFF), (EPOCH_MAX, 0xF_FFFF)] {
                let word = CtWord::new(Epoch::new(stamp), tag, direction, allowed);
                assert_eq!(
                    (
                        word.stamp().get(),
                        word.tag(),
                        word.direction(),
                        word.allowed()
                    ),
                    (stamp, tag, direction, allowed)
                );
            }
        }
    }
}

#[test]
fn each_shape_compares_its_own_port_bits() {
    assert_eq!(ShapeMask::port_mask(ShapeMask::shape(None)), 0);
    assert_eq!(ShapeMask::port_mask(ShapeMask::shape(Some(0))), 0);
    assert_eq!(ShapeMask::port_mask(ShapeMask::shape(Some(1))), 0x8000);
    assert_eq!(ShapeMask::port_mask(ShapeMask::shape(Some(13))), 0xFFF8);
    assert_eq!(ShapeMask::port_mask(ShapeMask::shape(Some(16))), 0xFFFF);
    assert_eq!(ShapeMask::shape(Some(16)), ShapeMask::SHAPES - 1);
}

#[test]
fn shape_word_keeps_three_masks_apart() {
    let word = ShapeWord::new(ShapeMask(1), ShapeMask(1 << 17), ShapeMask(0b101));
    assert_eq!(
        (word.specific().0, word.aggregate().0, word.any().0),
        (1, 1 << 17, 0b101)
    );
}

#[test]
fn a_value_read_under_another_key_is_noticed() {
    let key = |port, identity, direction| PolicyKey {
        table: 1,
        identity,
        port: Be16::new(port),
        protocol: 6,
        direction_shape: PolicyKey::pack(direction, 17),
    };
    let keys = [
        key(80, 300, Direction::Ingress),
        key(81, 300, Direction::Ingress),
        key(80, 301, Direction::Ingress),
        key(80, 300, Direction::Egress),
    ];
    let value = PolicyValue::new(&keys[0], Precedence(0xFFFF_FF01), 0, AuthRequirement(0));
    for key in &keys {
        let good = PolicyValue::seal(key, value.word) == value.check;
        assert_eq!(good, *key == keys[0], "{key:?}");
    }
}
