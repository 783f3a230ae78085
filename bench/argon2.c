/* Bare Argon2id: verifications a second of one process through libsodium, for bench/identity.sh. argon2 PASSES KILOBYTES SECONDS */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int count, char **words) {
  const char *password = "correct horse battery 1";
  char stored[crypto_pwhash_STRBYTES];
  if (count != 4 || sodium_init() < 0) return 2;
  const unsigned long long passes = strtoull(words[1], NULL, 10);
  const size_t bytes = (size_t)strtoull(words[2], NULL, 10) * 1024;
  const double seconds = atof(words[3]);
  if (crypto_pwhash_str_alg(stored, password, strlen(password), passes, bytes, crypto_pwhash_ALG_ARGON2ID13) != 0) return 3;
  const double start = now();
  long done = 0;
  while (now() < start + seconds) {
    if (crypto_pwhash_str_verify(stored, password, strlen(password)) != 0) return 4;
    ++done;
  }
  printf("%.3f\n", (double)done / (now() - start));
  return 0;
}
