"""What a generated name must not be: words that mean something to the compiler or its headers."""

WORDS = """
alignas alignof and_eq asm auto bitand bitor bool case catch char char16_t char32_t compl const const_cast
constexpr decltype default delete do double dynamic_cast enum errno explicit export extern false float friend
goto inline int linux long mutable namespace new noexcept not_eq nullptr operator or_eq private protected public
register reinterpret_cast short signed sizeof static static_assert static_cast struct switch template this
thread_local throw true typedef typeid typename typeof union unix unsigned using virtual void volatile wchar_t
xor xor_eq
"""
WORDS_OF_CPP = frozenset(WORDS.split())
