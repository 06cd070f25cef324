// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ask a real kernel about findings F1 and F2 (see findings.md): one thread collapses a memfd of one huge page over
 * and over, another asks lseek() where the data is, and counts the answers that cannot be right.
 *
 *     cc -O2 -pthread seekrace.c -o seekrace
 *     ./seekrace hole|data FIRST SECONDS ASK [HOLE]
 *
 * Pages from FIRST on hold data, but for HOLE; the question is asked at page ASK.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define PAGE 4096L
#define HUGE (2L << 20)

static int fd;
static char *map;
static long first, hole = -1;
static atomic_long round_; /* odd: the file is complete, and a collapse may be under way */
static atomic_int stop;

static void *collapse(void *unused)
{
	static char page[PAGE];
	long tries = 0, done = 0;

	memset(page, 'x', PAGE);
	while (!stop) {
		if (ftruncate(fd, 0) || ftruncate(fd, HUGE))
			perror("ftruncate");
		for (long p = first; p < HUGE / PAGE; p++)
			if (p != hole && pwrite(fd, page, PAGE, p * PAGE) != PAGE)
				perror("pwrite");
		round_++;
		done += !madvise(map, HUGE, MADV_COLLAPSE);
		tries++;
		round_++;
	}
	printf("%ld collapses, %ld of them successful\n", tries, done);
	return unused;
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: seekrace hole|data FIRST SECONDS ASK [HOLE]\n");
		return 2;
	}
	int whence = strcmp(argv[1], "hole") ? SEEK_DATA : SEEK_HOLE;
	long ask = atol(argv[4]) * PAGE, looks = 0, wrong = 0;
	time_t end = time(NULL) + atoi(argv[3]);

	first = atol(argv[2]);
	if (argc > 5)
		hole = atol(argv[5]);
	fd = memfd_create("seekrace", 0);
	if (fd < 0 || ftruncate(fd, HUGE)) {
		perror("memfd_create");
		return 2;
	}
	map = mmap(NULL, 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map = (char *)(((long)map + HUGE - 1) & ~(HUGE - 1));
	map = mmap(map, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);

	pthread_t thread;
	pthread_create(&thread, NULL, collapse, NULL);
	while (time(NULL) < end) {
		for (int i = 0; i < 200; i++) {
			long before = round_;
			if (!(before & 1))
				continue;
			off_t got = lseek(fd, ask, whence);
			if (round_ != before)
				continue; /* not surely within one round */
			looks++;
			if (whence == SEEK_HOLE ? got < HUGE && got / PAGE >= first && got / PAGE != hole
						: got < 0 || got > (ask > first * PAGE ? ask : first * PAGE)) {
				wrong++;
				printf("SEEK_%s at page %ld: %ld\n", whence == SEEK_HOLE ? "HOLE" : "DATA", ask / PAGE,
				       got < 0 ? -1L : (long)(got / PAGE));
			}
		}
	}
	stop = 1;
	pthread_join(thread, NULL);
	printf("%ld calls during a collapse, %ld wrong answers\n", looks, wrong);
	return wrong != 0;
}
