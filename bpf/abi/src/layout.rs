//! What keys and values of maps are made of, by name. The agent hands it to the kernel with each map (as BTF), so that one
//! of another version can read what is there.

/// A field of a key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name: what it means goes by that, in all versions.
    pub name: &'static str,
    /// Bytes before it.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
}

/// A key or value of a map.
pub trait Layout: Sized {
    /// The type's name.
    const NAME: &'static str;
    /// All of its fields.
    const FIELDS: &'static [Field];
}

/// A plain number is one field.
macro_rules! number {
    ($($type:ident),+) => {
        $(impl Layout for $type {
            const NAME: &'static str = stringify!($type);
            const FIELDS: &'static [Field] = &[Field {
                name: "value",
                offset: 0,
                size: size_of::<Self>(),
            }];
        })+
    };
}

number!(u32, u64);

/// Names the fields of a type; one that is forgotten is an error of the compiler's.
macro_rules! layout {
    ($type:ident: $($field:ident),+ $(,)?) => {
        impl $crate::layout::Layout for $type {
            const NAME: &'static str = stringify!($type);
            const FIELDS: &'static [$crate::layout::Field] = &[
                $($crate::layout::Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($type, $field),
                    size: $crate::layout::size_of_field(|value: &$type| &value.$field),
                }),+
            ];
        }
        const _: () = assert!($crate::layout::is_whole::<$type>());
    };
}

pub(crate) use layout;

/// Bytes of what the accessor gives.
pub(crate) const fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// The fields are all of the type. (It has no padding.)
pub(crate) const fn is_whole<T: Layout>() -> bool {
    let (mut sum, mut index) = (0, 0);
    while index < T::FIELDS.len() {
        sum += T::FIELDS[index].size;
        index += 1;
    }
    sum == size_of::<T>()
}
