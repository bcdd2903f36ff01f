// The mark of the product.

import type { JSX } from "preact";

export function Logo(): JSX.Element {
  return (
    <svg viewBox="0 0 32 32" width="22" height="22" aria-hidden="true" class="logo">
      <rect width="32" height="32" rx="7" />
      <path d="M6 12c3.300 0 3.300 3 6.700 3s3.300-3 6.600-3 3.400 3 6.700 3M6 20c3.300 0 3.300 3 6.700 3s3.300-3 6.600-3 3.400 3 6.700 3" />
    </svg>
  );
}
