/* A program's own sink that writes down what it is given, and the check of what it wrote: every
 * event of the log came, under its key; one that came twice had the same bytes; each stream in its
 * order. */
#ifndef TESTS_SUPPORT_RECORDER_H
#define TESTS_SUPPORT_RECORDER_H

#include <pthread.h>

#include "fixtures.h"

/* One delivery. */
struct tst_delivery {
    char key[LDG_DELIVERY_KEY_MAX];
    char stream[64];
    uint64_t hash; /* of all that does not depend on when the source was asked */
};

struct tst_recorder {
    pthread_mutex_t mutex;      /* everything below; deliver() comes from the bridge's thread */
    struct tst_delivery *items; /* in order */
    size_t count, cap;
    size_t most;        /* results per call; 0: all */
    const char *refuse; /* appends with this in their payload are refused; NULL: none is */
    int64_t pause_us;   /* a call takes so much longer */
    int fd;             /* each delivery is a line there before it counts; -1: none */
};
/* cap: as many deliveries as can come; deliver() allocates nothing. */
void tst_recorder_init(struct tst_recorder *recorder, size_t cap);
void tst_recorder_fini(struct tst_recorder *recorder);
ledger_sink tst_recorder_sink(struct tst_recorder *recorder);
size_t tst_recorder_count(struct tst_recorder *recorder);
/* Adds the deliveries of lines that recorders with an fd have written to the file. */
void tst_recorder_load(struct tst_recorder *recorder, const char *path);
/* Fails the test where the promise is broken. kept: the bridge's state store, whose parked events
 * need not have come; NULL: none is parked. Gives how many deliveries were not the first of their
 * key. */
size_t tst_recorder_check(struct tst_recorder *recorder, ledger_store *source, ledger_store *kept);

#endif
