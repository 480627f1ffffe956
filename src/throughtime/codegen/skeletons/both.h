// Two vectors side by side. While the functions of the first wait for one another, the processor works on the second's:
// of one alone it does not look far enough ahead to find other work.
#pragma once

#include "functions.h"

namespace tt {

template <class V>
struct Both {
  V first, second;
};

template <class V>
inline constexpr bool is_both = false;
template <class V>
inline constexpr bool is_both<Both<V>> = true;

// Of both the first (0) or the second (1); a single vector is the same for both.
template <int Half, class V>
TT_INLINE auto half_of(V v) {
  if constexpr (!is_both<V>)
    return v;
  else
    return Half ? v.second : v.first;
}

template <class V>
TT_INLINE Both<V> both(V first, V second) {
  return {first, second};
}

// ---- what an equation does with vectors, done with both ------------------------------------------------------------

#define TT_OF_ONE(name)                                \
  template <class V>                                   \
  TT_INLINE auto name(Both<V> v) {                     \
    return both(name(v.first), name(v.second));        \
  }
TT_OF_ONE(absolute)
TT_OF_ONE(sign)
TT_OF_ONE(exp)
TT_OF_ONE(expm1)
TT_OF_ONE(log)
TT_OF_ONE(log1p)
TT_OF_ONE(softplus)
TT_OF_ONE(sigmoid)
TT_OF_ONE(tanh)
TT_OF_ONE(sqrt)
TT_OF_ONE(sin)
TT_OF_ONE(cos)
TT_OF_ONE(erf)
#undef TT_OF_ONE
template <class V>
TT_INLINE auto operator-(Both<V> v) {
  return both(-v.first, -v.second);
}
template <class V>
TT_INLINE auto operator~(Both<V> v) {
  return both(~v.first, ~v.second);
}

#define TT_OF_TWO(name)                                                        \
  template <class V>                                                           \
  TT_INLINE auto name(Both<V> a, Both<V> b) {                                  \
    return both(name(a.first, b.first), name(a.second, b.second));             \
  }                                                                            \
  template <class V>                                                           \
  TT_INLINE auto name(Both<V> a, V b) {                                        \
    return both(name(a.first, b), name(a.second, b));                          \
  }                                                                            \
  template <class V>                                                           \
  TT_INLINE auto name(V a, Both<V> b) {                                        \
    return both(name(a, b.first), name(a, b.second));                          \
  }
TT_OF_TWO(minimum)
TT_OF_TWO(maximum)
#undef TT_OF_TWO

#define TT_BETWEEN_TWO(sign)                                                   \
  template <class V>                                                           \
  TT_INLINE auto operator sign(Both<V> a, Both<V> b) {                         \
    return both(a.first sign b.first, a.second sign b.second);                 \
  }                                                                            \
  template <class V>                                                           \
  TT_INLINE auto operator sign(Both<V> a, V b) {                               \
    return both(a.first sign b, a.second sign b);                              \
  }                                                                            \
  template <class V>                                                           \
  TT_INLINE auto operator sign(V a, Both<V> b) {                               \
    return both(a sign b.first, a sign b.second);                              \
  }
TT_BETWEEN_TWO(+)
TT_BETWEEN_TWO(-)
TT_BETWEEN_TWO(*)
TT_BETWEEN_TWO(/)
TT_BETWEEN_TWO(>)
TT_BETWEEN_TWO(>=)
TT_BETWEEN_TWO(&)
TT_BETWEEN_TWO(|)
#undef TT_BETWEEN_TWO

template <bool>
struct Where {};
template <>
struct Where<true> {
  using type = int;
};
#define TT_OF_THREE(name)                                                      \
  template <class A, class B, class C, typename Where<is_both<A> || is_both<B> || is_both<C>>::type = 0> \
  TT_INLINE auto name(A a, B b, C c) {                                         \
    return both(name(half_of<0>(a), half_of<0>(b), half_of<0>(c)), name(half_of<1>(a), half_of<1>(b), half_of<1>(c))); \
  }
TT_OF_THREE(fma)
TT_OF_THREE(select)
#undef TT_OF_THREE

}  // namespace tt
