/* SPDX-License-Identifier: Apache-2.0
 *
 * Who has an address: the usual cases of parsers/address_table.py and parsers/ipv4_rows.py.
 */
#include "kernels.h"

#define MAPPED 0xFFFF0000 /* bytes 8 to 12 of an IPv4 address */

EXPORT i64 addresses_find(const u64 *addresses, i64 count, const u32 *page_of, const u32 *numbers,
			  u32 *rows, i64 *others)
{
	i64 found = 0;

	for (i64 i = 0; i < count; i++) {
		u64 low = addresses[2 * i + 1];
		u32 ip = __builtin_bswap32((u32)(low >> 32));
		int is_v4 = !addresses[2 * i] && (u32)low == MAPPED;

		rows[i] = is_v4 ? numbers[page_of[ip >> 8] + (ip & 255)] : 0;
		others[found] = i;
		found += !is_v4;
	}
	return found;
}

EXPORT i64 addresses_at(const u32 *rows, const i64 *time, i64 count, const u32 *numbers,
			const i64 *since, i64 forever, u32 *number, i64 *began, i64 *until,
			i64 *early)
{
	i64 found = 0;

	for (i64 i = 0; i < count; i++) {
		number[i] = numbers[rows[i]];
		began[i] = since[rows[i]];
		until[i] = forever;
		early[found] = i;
		found += time[i] < began[i];
	}
	return found;
}
