// SPDX-License-Identifier: Apache-2.0
// Assertions of the addons: never compiled out. A failed one is our own mistake; the process dies
// and restarts from its log.
#pragma once
#include <cstdio>
#include <cstdlib>

#define OVS_CHECK(condition)                                                             \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
