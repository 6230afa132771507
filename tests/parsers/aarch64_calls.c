/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls functions of an object's memory as standard input says, without libc.
 *
 * Input, in words of 8 bytes: the memory's size, the memory, and then for each call the
 * function's address in it, how many arguments there are, and each of them: 0 and an integer, or
 * 1, a size in bytes and a column, padded to whole words. Output for each call: what the function
 * returned, and all columns as they are afterwards. All of the input is read first.
 */
typedef unsigned char u8;
typedef unsigned long u64;
typedef long i64;

#define MOST 24
#define INPUT (256UL << 20)

enum { READ = 63, WRITE = 64, EXIT = 93, MMAP = 222 };

static i64 system_call(i64 number, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f)
{
	register i64 x8 __asm__("x8") = number;
	register i64 x0 __asm__("x0") = a;
	register i64 x1 __asm__("x1") = b;
	register i64 x2 __asm__("x2") = c;
	register i64 x3 __asm__("x3") = d;
	register i64 x4 __asm__("x4") = e;
	register i64 x5 __asm__("x5") = f;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}

static u8 *memory(u64 size, int protection)
{
	i64 at = system_call(MMAP, 0, (i64)size, protection, 0x22 /* private, of no file */, -1, 0);

	if (at < 0 && at > -4096)
		system_call(EXIT, 2, 0, 0, 0, 0, 0);
	return (u8 *)at;
}

static void put(const void *from, u64 size)
{
	for (i64 done; size; from = (const u8 *)from + done, size -= (u64)done) {
		done = system_call(WRITE, 1, (i64)from, (i64)size, 0, 0, 0);
		if (done <= 0)
			system_call(EXIT, 3, 0, 0, 0, 0, 0);
	}
}

typedef i64 (*function)(i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64,
			i64, i64, i64, i64, i64, i64, i64, i64, i64);

/* A function takes the first of them and does not see the others, be they in registers or behind. */
static i64 call(u8 *at, const i64 *a)
{
	return ((function)at)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10],
			      a[11], a[12], a[13], a[14], a[15], a[16], a[17], a[18], a[19],
			      a[20], a[21], a[22], a[23]);
}

void _start(void)
{
	u8 *input = memory(INPUT, 3 /* read, write */), *end = input, *code;
	const u64 *word = (const u64 *)input;
	u64 size;
	i64 got;

	while ((got = system_call(READ, 0, (i64)end, (i64)(input + INPUT - end), 0, 0, 0)) > 0)
		end += got;
	size = *word++;
	code = memory(size, 7 /* and execute */);
	for (u64 i = 0; i < size / 8; i++)
		((u64 *)code)[i] = *word++;
	/* An emulator sees what was written; a processor would want its caches told. */

	while ((const u8 *)word < end) {
		u64 address = *word++, count = *word++, columns = 0, sizes[MOST];
		i64 arguments[MOST] = { 0 }, result;
		const u8 *kept[MOST];

		for (u64 i = 0; i < count; i++) {
			if (!*word++) {
				arguments[i] = (i64)*word++;
				continue;
			}
			sizes[columns] = *word++;
			kept[columns] = (const u8 *)word;
			arguments[i] = (i64)word;
			word += (sizes[columns++] + 7) / 8;
		}
		result = call(code + address, arguments);
		put(&result, 8);
		for (u64 i = 0; i < columns; i++)
			put(kept[i], sizes[i]);
	}
	system_call(EXIT, 0, 0, 0, 0, 0, 0);
}
