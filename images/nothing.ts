// What a bundle has in the place of packages that it loads and never uses.

export {};
