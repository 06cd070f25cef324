// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ask a real kernel about finding F6 (see findings.md): one thread writes a large folio of four pages into a file on
 * tmpfs and punches its first page out, over and over; another reads the last page, and counts the zeros that it gets
 * while that page holds data. A timer interrupts the reader as often as it can.
 *
 *     cc -O2 -pthread punchrace.c -o punchrace
 *     mount -t tmpfs -o huge=always none DIR
 *     ./punchrace DIR/file SECONDS
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define FOLIO (4 * PAGE)
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static int fd;
static atomic_long round_; /* odd: the last page holds data */
static atomic_int stop;
static volatile long interrupts;

static void *punch(void *unused)
{
	static char folio[FOLIO];
	long punches = 0;

	memset(folio, 'x', FOLIO);
	while (!stop) {
		if (fallocate(fd, PUNCH, 0, FOLIO) || pwrite(fd, folio, FOLIO, 0) != FOLIO)
			perror("fallocate, pwrite");
		round_++;
		if (fallocate(fd, PUNCH, 0, PAGE))
			perror("fallocate");
		round_++;
		punches++;
	}
	printf("%ld punches\n", punches);
	return unused;
}

static void interrupted(int unused)
{
	(void)unused;
	interrupts++;
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: punchrace FILE SECONDS\n");
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, FOLIO)) {
		perror(argv[1]);
		return 2;
	}
	time_t end = time(NULL) + atoi(argv[2]);
	long looks = 0, wrong = 0;
	pthread_t thread;
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL); /* the timer is for the reader alone */
	pthread_create(&thread, NULL, punch, NULL);
	sigprocmask(SIG_UNBLOCK, &all, NULL);
	signal(SIGALRM, interrupted);
	timer_t timer;
	struct itimerspec often = {{0, 500000}, {0, 500000}};
	if (timer_create(CLOCK_MONOTONIC, NULL, &timer) || timer_settime(timer, 0, &often, NULL))
		perror("timer");
	while (time(NULL) < end) {
		for (int i = 0; i < 200; i++) {
			char got = 'x';
			long before = round_;
			if (!(before & 1))
				continue;
			if (pread(fd, &got, 1, 3 * PAGE) != 1 || round_ != before)
				continue; /* not surely within one round */
			looks++;
			if (got != 'x') {
				wrong++;
				printf("page 3 reads as %d\n", got);
				fflush(stdout);
			}
		}
	}
	stop = 1;
	pthread_join(thread, NULL);
	printf("%ld reads, %ld wrong, %ld interrupts\n", looks, wrong, interrupts);
	return wrong != 0;
}
