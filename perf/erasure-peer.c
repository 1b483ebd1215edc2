// SPDX-License-Identifier: Apache-2.0
// The peer of the erasure row: a plain C program that calls ISA-L. Encodes a ring of objects for a
// while and prints MiB of data per CPU second and per second as JSON.
//
//   erasure-peer K M FRAGMENT_BYTES OBJECTS SECONDS CHECKSUMS
#include <isa-l.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const int k = atoi(argv[1]), m = atoi(argv[2]), bytes = atoi(argv[3]), objects = atoi(argv[4]);
  const double seconds = atof(argv[5]);
  const int checksums = atoi(argv[6]);
  uint8_t* memory = NULL;
  const size_t object = (size_t)(k + m) * bytes;
  if (posix_memalign((void**)&memory, 4096, object * objects)) return 1;
  for (size_t i = 0; i < object * objects; i++) memory[i] = (uint8_t)(i * 2654435761u >> 13);
  uint8_t matrix[64 * 64], tables[32 * 64 * 64];
  gf_gen_cauchy1_matrix(matrix, k + m, k);
  ec_init_tables(k, m, matrix + k * k, tables);
  volatile uint32_t sum = 0;
  const double begin = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
  long rounds = 0;
  for (; now(CLOCK_MONOTONIC) - begin < seconds; rounds++) {
    uint8_t* fragments[64];
    for (int i = 0; i < k + m; i++) fragments[i] = memory + object * (rounds % objects) + (size_t)i * bytes;
    ec_encode_data(bytes, k, m, tables, fragments, fragments + k);
    for (int i = 0; checksums && i < k + m; i++) {
      for (int at = 0; at < bytes; at += 4096) sum += crc32_iscsi(fragments[i] + at, 4096, ~0u);
    }
  }
  const double used = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
  const double took = now(CLOCK_MONOTONIC) - begin, mib = rounds * ((double)k * bytes) / (1 << 20);
  printf("{\"perCpu\": %f, \"perSecond\": %f, \"cpuSeconds\": %f}\n", mib / used, mib / took, used);
  free(memory);
  return 0;
}
