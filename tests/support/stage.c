/* See stage.h. One lock for all: there are few, and they wait for each other anyway. */
#include "stage.h"

#include <pthread.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

void tst_stage_reach(int *stage, int value)
{
    pthread_mutex_lock(&mutex);
    if (value > *stage)
        *stage = value;
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&mutex);
}

void tst_stage_await(const int *stage, int value)
{
    pthread_mutex_lock(&mutex);
    while (*stage < value)
        pthread_cond_wait(&cond, &mutex);
    pthread_mutex_unlock(&mutex);
}
