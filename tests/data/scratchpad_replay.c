/* Walks through the tables of a program on bytes. Moves are made as the tables say; a computation checks the bytes that
   it reads against those that the simulator saw and puts its results where the tables say. Prints what it counted. */
#include PROGRAM
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t *chip, *behind;

static uint32_t hash(uint32_t state, const uint8_t *bytes, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) state = (state ^ bytes[i]) * 16777619u;
  return state;
}

static uint8_t *read_file(const char *path, long *size) {
  FILE *file = fopen(path, "rb");
  if (!file) exit(2);
  fseek(file, 0, SEEK_END);
  *size = ftell(file);
  rewind(file);
  uint8_t *bytes = malloc(*size ? *size : 1);
  if (fread(bytes, 1, *size, file) != (size_t)*size) exit(3);
  fclose(file);
  return bytes;
}

int main(int argc, char **argv) {
  if (argc != 3) return 1;
  long image_bytes, trace_bytes;
  behind = read_file(argv[1], &image_bytes);
  uint8_t *trace = read_file(argv[2], &trace_bytes);
  if (image_bytes != INSTAR_OFF_CHIP_BYTES) return 4;
  chip = malloc(INSTAR_SCRATCHPAD_BYTES + 1);
  memset(chip, 0x5A, INSTAR_SCRATCHPAD_BYTES + 1);
  uint64_t charged[INSTAR_PURPOSES] = {0}, moved = 0, peak = 0, wrong = 0, early = 0;
  uint8_t *next = trace;
  for (uint32_t place = 0; place < INSTAR_COMMANDS; place++) {
    const instar_command *c = &instar_commands[place];
    for (uint32_t i = 0; i < c->need_count; i++) early += instar_needs[c->needs + i] >= place;
    charged[c->purpose] += c->bytes;
    for (uint32_t i = 0; i < c->move_count; i++) {
      const instar_move *m = &instar_moves[c->moves + i];
      for (uint32_t block = 0; block < m->blocks; block++) {
        uint8_t *near = chip + m->on_chip + (uint64_t)block * m->on_stride;
        uint8_t *far = behind + m->off_chip + (uint64_t)block * m->off_stride;
        if (c->kind == INSTAR_LOAD) memcpy(near, far, m->block_bytes);
        else memcpy(far, near, m->block_bytes);
        moved += m->block_bytes;
        uint64_t end = near - chip + m->block_bytes;
        if (end > peak) peak = end;
      }
    }
    if (c->kind != INSTAR_COMPUTE) continue;
    uint32_t state = 2166136261u, wanted;
    for (uint32_t i = 0; i < c->read_count; i++) {
      const instar_interval *r = &instar_intervals[c->reads + i];
      state = hash(state, chip + r->first, r->stop - r->first);
      if (r->stop > peak) peak = r->stop;
    }
    memcpy(&wanted, next, 4);
    next += 4;
    wrong += state != wanted;
    for (uint32_t i = 0; i < c->write_count; i++) {
      const instar_interval *w = &instar_intervals[c->writes + i];
      memcpy(chip + w->first, next, w->stop - w->first);
      next += w->stop - w->first;
      if (w->stop > peak) peak = w->stop;
    }
  }
  printf("{\"commands\": %u, \"wrong\": %llu, \"early\": %llu, \"unread\": %ld, \"peak\": %llu, \"moved\": %llu, ",
         INSTAR_COMMANDS, (unsigned long long)wrong, (unsigned long long)early, (long)(trace + trace_bytes - next),
         (unsigned long long)peak, (unsigned long long)moved);
  printf("\"image\": %u, \"charged\": [", hash(2166136261u, behind, INSTAR_OFF_CHIP_BYTES));
  for (int i = 0; i < INSTAR_PURPOSES; i++) printf("%s%llu", i ? ", " : "", (unsigned long long)charged[i]);
  printf("]}\n");
  return 0;
}
