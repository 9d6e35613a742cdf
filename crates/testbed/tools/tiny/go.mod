// The one program in the testbed's images.
module drop.test/tools/tiny

go 1.26.0
